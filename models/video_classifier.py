"""Which actor-action pairs a video shows: the multi-label classifier of Gavrilyuk et al. 2018, section 5.3, Setup.

A network that segments from a sentence must be asked about the right things; for a fixed vocabulary this classifier
chooses what to ask (``stages.core.datasets.vocabulary``). Two I3D (Carreira and Zisserman 2017), RGB and flow, with as
many outputs as there are pairs and a sigmoid for each. Training: the last inception block and the final layer, on
random clips of 64 frames, crops of 224 x 224 and horizontal flips; Adam, 0.001 fixed, 3,000 iterations. Test: the
scores of 32-frame clips over the video are averaged, over all clips and both streams; what scores more than 0.5 is
asked for.

What the paper leaves open, decided here:

- A score is a probability (the sigmoid is the network's activation function), so that is what is averaged.
- The streams share nothing and are trained side by side by the sum of their losses, binary cross-entropy averaged over
  clips and pairs. A clip's truth is that of its video: pairs are annotated in a few of its frames.
- The fixed layers keep the statistics of their batch norms; the last block's go on.
- As I3D has it: frames have a height of 256, pooling is over 2 x 7 x 7 positions (here over fewer where there are
  fewer) with stride 1, and logits are averaged over what is left, so clips of any size and length are taken.
- The batch is 8; no size is given. No dropout: neither paper has one. `paper` augments as said above; `small`, which
  has few videos, draws a scale and colours too.

Parameters: Carreira and Zisserman give 25 M for both streams and 400 classes; these have 24.6 M.

Axes: B batch, T frames, H, W input; t, h, w = T/8, H/32, W/32; C channels; P pairs without background.
"""

from dataclasses import dataclass, field, replace
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Labels
from models.parts import i3d
from models.parts.network import Training, split_parameters

CHANNELS = {"rgb": 3, "flow": 2}
POOL = (2, 7, 7)
"""Positions of the last features that I3D averages: two steps of a crop of 224 x 224."""


class VideoBatch(TypedDict, total=False):
    """Clips, and what their videos show."""

    frames: Tensor  # (B, T, H, W, 3) uint8 RGB
    flow: Tensor  # (B, T, H, W, 2) float32, encoded `clipped` (truncated to 20 pixels, over 20)
    pairs: Tensor  # (B, P) float32, 1 where the video shows the pair, in the order of ``Labels.valid_ids``; training


@dataclass(frozen=True)
class Config:
    """Sizes of the classifier and how it is trained."""

    streams: tuple[str, ...] = ("rgb", "flow")  # of rgb, flow
    encoder: i3d.Config = field(default_factory=i3d.Config)  # of each stream; its last block is fine-tuned
    frames: int = 64  # of a clip in training
    test_frames: int = 32  # of each of the clips whose scores are averaged
    height: int | None = 256
    crop: tuple[int, int] | None = (224, 224)
    jitter: bool = False  # in training of the scale and the colours too
    flow_encoding: str = "clipped"
    training: Training = field(
        default=Training(
            steps=3_000,
            batch=8,
            learning_rates={"encoder": 1e-3, "rest": 1e-3},
            optimiser="adam",
            schedule="step:0:1",  # fixed
            weight_decay=0,
        )
    )


paper = Config()
small = Config(
    encoder=i3d.SMALL,
    frames=16,
    test_frames=8,
    height=80,
    crop=(80, 112),
    jitter=True,  # a few hundred videos are soon known by heart
    training=Training(
        steps=400,
        batch=8,
        learning_rates={"encoder": 1e-3, "rest": 3e-3},
        optimiser="adam",
        schedule="cosine",
        weight_decay=1e-4,
    ),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """The configuration for ``rgb``, ``flow`` or ``rgb+flow``."""
    return replace(config, streams=tuple(inputs.split("+")))


def build(config: Config, labels: Labels) -> "VideoClassifier":
    """The network of ``config`` for the pairs of ``labels``."""
    return VideoClassifier(config, labels)


class Stream(nn.Module):
    """I3D with a classifier of pairs: clips (B, C, T, H, W) -> logits (B, P)."""

    def __init__(self, encoder: i3d.Config, *, pairs: int) -> None:
        super().__init__()
        self.encoder = i3d.I3D(encoder)
        *self.fixed, self.last = self.encoder.endpoints
        for name in self.fixed:
            self.encoder.get_submodule(name).requires_grad_(False)
        self.logits = nn.Conv3d(encoder.channels(self.last), pairs, 1)

    def train(self, mode: bool = True) -> "Stream":
        """As every module's, but the fixed layers' batch norms keep to their statistics."""
        super().train(mode)
        for name in self.fixed:
            self.encoder.get_submodule(name).eval()
        return self

    def forward(self, clip: Tensor) -> Tensor:
        with torch.no_grad():
            fixed = self.encoder(clip, (self.fixed[-1],))[self.fixed[-1]]
        features = self.encoder(fixed, (self.last,), after=self.fixed[-1])[self.last]  # (B, C, t, h, w)
        window = [min(most, length) for most, length in zip(POOL, features.shape[2:], strict=True)]
        return self.logits(F.avg_pool3d(features, window, stride=1)).mean((2, 3, 4))  # (B, P)


class VideoClassifier(nn.Module):
    """One network a stream; their losses are added, their probabilities averaged."""

    def __init__(self, config: Config, labels: Labels) -> None:
        super().__init__()
        self.config = config
        pairs = len(labels.valid_ids) - 1  # without background
        self.streams = nn.ModuleDict(
            {name: Stream(replace(config.encoder, inputs=CHANNELS[name]), pairs=pairs) for name in config.streams}
        )

    def forward(self, batch: VideoBatch) -> dict[str, Tensor]:
        """Logits (B, P) of each stream."""
        clips = {}
        if "rgb" in self.streams:
            clips["rgb"] = batch["frames"].float() / 127.5 - 1
        if "flow" in self.streams:
            clips["flow"] = batch["flow"]
        return {name: stream(clips[name].permute(0, 4, 1, 2, 3)) for name, stream in self.streams.items()}

    def loss(self, batch: VideoBatch) -> dict[str, Tensor]:
        """Binary cross-entropy of the sigmoids, summed over streams; beside it each stream's."""
        losses = {
            name: F.binary_cross_entropy_with_logits(logits, batch["pairs"]) for name, logits in self(batch).items()
        }
        return {"loss": torch.stack([*losses.values()]).sum(), **losses}

    @torch.no_grad()
    def scores(self, batch: VideoBatch) -> Tensor:
        """Probability (B, P) that a clip shows each pair, averaged over the streams."""
        return torch.stack([logits.sigmoid() for logits in self(batch).values()]).mean(0)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The encoders' last blocks, and the final layers; the paper gives both one learning rate."""
        encoders, rest = split_parameters(self, self.encoder_slots().values())
        return {"encoder": encoders, "rest": rest}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """Encoders that start from pretrained weights: name of the weights -> module."""
        return {f"{name}3d": stream.encoder for name, stream in self.streams.items()}  # type: ignore[misc]
