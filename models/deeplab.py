"""The DeepLab-type two-stream baseline of Dang et al. 2018 ("Actor-Action Semantic Segmentation with Region Masks").

Section 3.2: one ResNet-101 an input (RGB; optical flow as a colour image), the last two stages dilated to 1/8; the two
feature maps are concatenated (early fusion). Section 3.3 and figure 2(b): parallel dilated convolutions 6/12/18/24,
summed, one set for the actor and one for the action. Equation 1: cross-entropy of both. Section 3.4, first stage: SGD,
2.5e-4 for the front-end and 5e-3 for the back-end, mini-batches of 10, 20,000 iterations.

Late fusion, which the paper decides against, averages the class probabilities of one pair of heads a stream, as
two-stream networks do (Simonyan and Zisserman 2014). The sum of the streams' logits would be no contrast: these heads
are linear, so it is early fusion again, weight by weight.

Axes: B batch, H, W input; h, w = H/8, W/8; S streams; C channels of one; K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE
from models.base import SINGLE_FRAME, Batch, Labels, PairScores, Predictions, Window, split_labels
from models.parts import resnet
from models.parts.network import Training

FLOW_ENCODING = "colour_wheel"


@dataclass(frozen=True)
class Config:
    """Sizes of the baseline and how it is trained."""

    streams: tuple[str, ...] = ("rgb", "flow")  # of rgb, flow
    encoder: resnet.Config = resnet.RESNET101
    fusion: str = "early"  # early concatenates the streams' features, late averages their class probabilities
    rates: tuple[int, ...] = (6, 12, 18, 24)
    head_init: float = 0.01  # standard deviation of the back-end's weights, as in DeepLab-v2
    height: int | None = None  # frames are resized to this height first; None: as they are
    crop: tuple[int, int] | None = (513, 513)
    window: Window = SINGLE_FRAME
    flow_encoding: str = FLOW_ENCODING
    training: Training = field(
        default=Training(steps=20_000, batch=10, learning_rates={"front": 2.5e-4, "back": 5e-3}, optimiser="sgd")
    )

    def __post_init__(self) -> None:
        if self.fusion not in {"early", "late"}:
            raise ValueError(f"deeplab: fusion `{self.fusion}` is neither `early` nor `late`")


paper = Config()
small = Config(
    encoder=resnet.SMALL,
    rates=(1, 2, 4, 6),  # 6 to 24 reach past the edge of a map of 16 x 22
    height=128,
    crop=(128, 160),
    training=Training(
        steps=400, batch=8, learning_rates={"front": 1e-3, "back": 2e-3}, optimiser="adam", schedule="cosine"
    ),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """The configuration for ``rgb``, ``flow`` or ``rgb+flow``."""
    return replace(config, streams=tuple(inputs.split("+")))


def late_fusion(config: Config) -> Config:
    """The contrast to section 3.2's early fusion; changes nothing where there is one stream."""
    return replace(config, fusion="late")


VARIANTS: dict[str, Callable[[Config], Config]] = {"late_fusion": late_fusion}
"""Name of a run's variant -> the configuration it makes of the plain one."""


def build(config: Config, labels: Labels) -> "DeepLab":
    """The network of ``config`` for the classes of ``labels``."""
    return DeepLab(config, labels)


class Head(nn.Module):
    """Parallel dilated 3x3 convolutions, summed: features (B, S * C, h, w) -> logits (B, K, h, w).

    With more ``groups`` than one, each sees channels of its own, and their probabilities are averaged.
    """

    def __init__(self, inputs: int, classes: int, rates: tuple[int, ...], *, deviation: float, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        branches = [
            nn.Conv2d(inputs, groups * classes, 3, padding=rate, dilation=rate, groups=groups) for rate in rates
        ]
        for branch in branches:
            nn.init.normal_(branch.weight, std=deviation)
            if branch.bias is not None:
                nn.init.zeros_(branch.bias)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([branch(x) for branch in self.branches]).sum(0)
        if self.groups == 1:
            return logits
        apart = logits.unflatten(1, (self.groups, -1)).log_softmax(2)  # (B, S, K, h, w)
        return apart.logsumexp(1)  # the sum will do: softmax takes no notice of a factor


class DeepLab(nn.Module):
    """Streams, their fusion, one head for the actor and one for the action."""

    def __init__(self, config: Config, labels: Labels) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({stream: resnet.ResNet(config.encoder) for stream in config.streams})
        channels = config.encoder.channels * len(config.streams)
        groups = len(config.streams) if config.fusion == "late" else 1
        self.actor, self.action = (
            Head(channels, len(classes), config.rates, deviation=config.head_init, groups=groups)
            for classes in (labels.actors, labels.actions)
        )
        self.pairs = PairScores(labels)
        self.stride = labels.stride

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K_actor, h, w) and (B, K_action, h, w)."""
        features = self.features(batch)
        return self.actor(features), self.action(features)

    def features(self, batch: Batch) -> Tensor:
        """What the front-end gives any back-end: the streams' features side by side (B, S * C, h, w)."""
        inputs = {"rgb": batch["frames"]} | ({"flow": batch["flow"]} if "flow" in self.config.streams else {})
        return torch.cat(
            [encoder(resnet.picture(inputs[stream][:, 0])) for stream, encoder in self.encoders.items()], dim=1
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Equation 1: mean cross-entropy of actor and action over the labelled pixels, at full resolution."""
        actor, action = self(batch)
        losses = {}
        for name, logits, truth in zip(
            ("actor", "action"), (actor, action), split_labels(batch["labels"][:, 0], stride=self.stride), strict=True
        ):
            logits = F.interpolate(logits, size=truth.shape[1:], mode="bilinear", align_corners=False)
            losses[name] = F.cross_entropy(logits, truth, ignore_index=IGNORE)
        return {"loss": losses["actor"] + losses["action"], **losses}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Predictions:
        """Label maps at the resolution of the frames."""
        shape = batch["frames"].shape[2:4]
        logits = [F.interpolate(x, size=shape, mode="bilinear", align_corners=False) for x in self(batch)]
        return self.pairs(*logits)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Front-end and back-end, which learn at different rates (section 3.4)."""
        return {
            "front": list(self.encoders.parameters()),
            "back": [*self.actor.parameters(), *self.action.parameters()],
        }

    def encoder_slots(self) -> dict[str, nn.Module]:
        """Encoders that start from pretrained weights: name of the weights -> module."""
        return {f"{stream}2d": encoder for stream, encoder in self.encoders.items()}
