"""The DeepLab-type two-stream baseline of Dang et al. 2018 ("Actor-Action Semantic Segmentation with Region Masks").

Section 3.2: one ResNet-101 an input (RGB; optical flow as a colour image), the last two stages dilated to 1/8; the two
feature maps are concatenated (early fusion). Section 3.3 and figure 2(b): parallel dilated convolutions 6/12/18/24,
summed, one set for the actor and one for the action. Equation 1: cross-entropy of both. Section 3.4, first stage: SGD,
2.5e-4 for the front-end and 5e-3 for the back-end, mini-batches of 10, 20,000 iterations.

Axes: B batch, H, W input; h, w = H/8, W/8; C channels of one stream; K classes.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, resnet
from models.base import SINGLE_FRAME, Batch, Labels, PairScores, Predictions, Training, Window, split_labels

FLOW_ENCODING = "colour_wheel"


@dataclass(frozen=True)
class Config:
    """Sizes of the baseline and how it is trained."""

    streams: tuple[str, ...] = ("rgb", "flow")  # of rgb, flow
    encoder: resnet.Config = resnet.RESNET101
    rates: tuple[int, ...] = (6, 12, 18, 24)
    head_init: float = 0.01  # standard deviation of the back-end's weights, as in DeepLab-v2
    height: int | None = None  # frames are resized to this height first; None: as they are
    crop: tuple[int, int] | None = (513, 513)
    window: Window = SINGLE_FRAME
    flow_encoding: str = FLOW_ENCODING
    training: Training = field(
        default=Training(steps=20_000, batch=10, learning_rates={"front": 2.5e-4, "back": 5e-3}, optimiser="sgd")
    )


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


def build(config: Config, labels: Labels) -> "DeepLab":
    """The network of ``config`` for the classes of ``labels``."""
    return DeepLab(config, labels)


class Head(nn.Module):
    """Parallel dilated 3x3 convolutions, summed: (B, C, h, w) -> (B, K, h, w)."""

    def __init__(self, inputs: int, classes: int, rates: tuple[int, ...], *, deviation: float) -> None:
        super().__init__()
        branches = [nn.Conv2d(inputs, classes, 3, padding=rate, dilation=rate) for rate in rates]
        for branch in branches:
            nn.init.normal_(branch.weight, std=deviation)
            if branch.bias is not None:
                nn.init.zeros_(branch.bias)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class DeepLab(nn.Module):
    """Streams, early fusion, one head for the actor and one for the action."""

    def __init__(self, config: Config, labels: Labels) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({stream: resnet.ResNet(config.encoder) for stream in config.streams})
        channels = config.encoder.channels * len(config.streams)
        self.actor = Head(channels, len(labels.actors), config.rates, deviation=config.head_init)
        self.action = Head(channels, len(labels.actions), config.rates, deviation=config.head_init)
        self.pairs = PairScores(labels)
        self.stride = labels.stride

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K_actor, h, w) and (B, K_action, h, w)."""
        inputs = {"rgb": batch["frames"]} | ({"flow": batch["flow"]} if "flow" in self.config.streams else {})
        features = [encoder(picture(inputs[stream][:, 0])) for stream, encoder in self.encoders.items()]
        fused = torch.cat(features, dim=1)  # (B, streams * C, h, w)
        return self.actor(fused), self.action(fused)

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


def picture(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float, ImageNet's mean and deviation (torchvision's weights expect them)."""
    x = image.permute(0, 3, 1, 2).float() / 255
    mean = x.new_tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    deviation = x.new_tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    return ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)
