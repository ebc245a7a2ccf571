"""Region masks (Dang et al. 2018, "Actor-Action Semantic Segmentation with Region Masks"): the back-end of section 3.3.

The front-end is a trained ``models.deeplab``, fixed (section 3.4), so its fused features come in as input and no
encoder is here. Each region's box is RoI-pooled from them and classified by two networks of identical structure, one
for the actor and one for the action; the region-to-pixel layer (equations 2, 3; ``models.parts.region_to_pixel``)
brings the scores to pixels, a softmax makes probabilities of them, equation 1 is the loss, and a pair's probability is
the product. Section 3.4, second stage: SGD, 2.5e-4, one frame a step, 80,000 iterations.

What the paper leaves open, decided here:

- The fully connected layers are Fast R-CNN's in form, two with ReLU and dropout behind 7 x 7 pooled cells, of 1,024.
- s_i are logits, as the softmax behind equations 2 and 3 says: probabilities would leave no actor above e / (e + 7).
- Background is what no region claims. Equations 2 and 3 alone give a pixel outside every box 0 for all classes, so
  none; and a pixel at the dim edge of a box its region's class, because m_ij > 0 scales all classes alike. So one more
  region stands behind the others: its box is the frame, its mask 1 - max_i m_ij, its score ``Config.background`` for
  background; it has no opinion on other classes. A region may still be called background by its own score.
- A region's gradient is that of its pixels: one that no pixel shows learns nothing, and neither does an empty frame.

Parameters: SSA2D's paper says 44 M for RGB and 88 M for RGB + flow, for this method and for another with as many
ResNet-101s. One ResNet-101 has 42.5 M without its classifier (44.5 M with it); with the baseline's heads our
front-ends have 43.8 M and 87.7 M. So those figures hold no fully connected layers. Ours add 207.6 M and 413.2 M, nearly
all in the first layer of each network: 2,048 features a stream x 49 cells x 1,024.

Axes: B batch, R regions of one frame, N of all frames of a batch, H, W frame, h, w features (H/8, W/8), C channels of
all streams, P pooled cells along a side, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE
from models.base import SINGLE_FRAME, Batch, Labels, PairScores, Predictions, Window, split_labels
from models.parts import resnet
from models.parts.network import Training
from models.parts.region_to_pixel import region_to_pixel
from models.parts.region_types import RegionMaskBatch


@dataclass(frozen=True)
class Config:
    """Sizes of the region back-end and how it is trained."""

    streams: tuple[str, ...] = ("rgb", "flow")  # of rgb, flow
    encoder: resnet.Config = resnet.RESNET101  # of each stream of the front-end
    pool: int = 7
    hidden: tuple[int, ...] = (1024, 1024)
    dropout: float = 0.5
    background: float = 5.0  # where no region claims a pixel: background has probability 0.95 there
    output_stride: int = 1  # pixel scores are computed on every such pixel of every such row, and upsampled
    height: int | None = None  # frames are resized to this height first, as for the front-end; None: as they are
    crop: tuple[int, int] | None = None  # features are those of whole frames
    window: Window = SINGLE_FRAME
    flow_encoding: str = "colour_wheel"
    training: Training = field(
        default=Training(steps=80_000, batch=1, learning_rates={"back": 2.5e-4}, optimiser="sgd")
    )


paper = Config()
small = Config(
    encoder=resnet.SMALL,
    pool=4,
    hidden=(128, 128),
    height=128,
    training=Training(steps=400, batch=8, learning_rates={"back": 1e-3}, optimiser="adam", schedule="cosine"),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """The configuration for ``rgb``, ``flow`` or ``rgb+flow``."""
    return replace(config, streams=tuple(inputs.split("+")))


def _as_it_is(config: Config) -> Config:
    return config


VARIANTS: dict[str, Callable[[Config], Config]] = {"other_masks": _as_it_is, "true_masks": _as_it_is}
"""Rows of table 3: the network is the same, and labels masks learned on other data, or in the test the true ones."""


def build(config: Config, labels: Labels) -> "RegionMasks":
    """The network of ``config`` for the classes of ``labels``."""
    return RegionMasks(config, labels)


class RegionMasks(nn.Module):
    """RoI pooling, two classifiers of regions, region-to-pixel layer."""

    def __init__(self, config: Config, labels: Labels) -> None:
        super().__init__()
        self.config = config
        inputs = config.encoder.channels * len(config.streams) * config.pool**2
        self.classes = (len(labels.actors), len(labels.actions))
        self.actor, self.action = (_classifier(inputs, classes, config) for classes in self.classes)
        self.pairs = PairScores(labels)
        self.stride = labels.stride

    def forward(self, batch: RegionMaskBatch) -> tuple[Tensor, Tensor]:
        """Pixel scores before the softmax, (B, K_actor, H, W) and (B, K_action, H, W)."""
        frames = zip(batch["features"], batch["boxes"], strict=True)
        pooled = torch.cat(
            [roi_pool(x, boxes, stride=self.config.encoder.stride, side=self.config.pool) for x, boxes in frames]
        ).flatten(1)  # (N, C * P * P)
        # A class of score 1 beside the others brings max_i m_ij to the pixels.
        scores = torch.cat([self.actor(pooled), self.action(pooled), pooled.new_ones(len(pooled), 1)], dim=1)
        regions = zip(batch["boxes"], batch["soft_masks"], strict=True)
        of_frames = scores.split([len(boxes) for boxes in batch["boxes"]])
        pixels = torch.stack(
            [
                region_to_pixel(*region, own, shape=batch["shape"], stride=self.config.output_stride)
                for region, own in zip(regions, of_frames, strict=True)
            ]
        )  # (B, K_actor + K_action + 1, h', w')
        actor, action, claimed = pixels.split((*self.classes, 1), dim=1)
        unclaimed = self.config.background * (1 - claimed)
        return tuple(  # type: ignore[return-value]
            self._full_size(torch.cat([torch.maximum(x[:, :1], unclaimed), x[:, 1:]], dim=1), batch["shape"])
            for x in (actor, action)
        )

    def loss(self, batch: RegionMaskBatch) -> dict[str, Tensor]:
        """Equation 1: mean cross-entropy of actor and action over the labelled pixels."""
        truths = split_labels(batch["labels"][:, 0], stride=self.stride)
        actor, action = (
            F.cross_entropy(scores, truth, ignore_index=IGNORE)
            for scores, truth in zip(self(batch), truths, strict=True)
        )
        return {"loss": actor + action, "actor": actor, "action": action}

    @torch.no_grad()
    def predict(self, batch: RegionMaskBatch) -> Predictions:
        """Label maps at the resolution of the frames."""
        return self.pairs(*self(batch))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The fully connected layers: nothing else here learns (section 3.4)."""
        return {"back": list(self.parameters())}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """None: the front-end is a trained ``models.deeplab``."""
        return {}

    def _full_size(self, scores: Tensor, shape: tuple[int, int]) -> Tensor:
        """(B, K, h', w') to (B, K, H, W); a last cell that reaches beyond the frame is cut."""
        if self.config.output_stride == 1:
            return scores
        scores = F.interpolate(scores, scale_factor=self.config.output_stride, mode="bilinear", align_corners=False)
        return scores[:, :, : shape[0], : shape[1]]


class Pipeline(nn.Module):
    """The whole method on frames: front-end (a DeepLab), segmenter (``models.parts.region_types``) and back-end, all
    trained."""

    def __init__(self, front: Any, segmenter: Any, back: RegionMasks) -> None:
        super().__init__()
        self.front, self.segmenter, self.back = front, segmenter, back

    @torch.no_grad()
    def predict(self, batch: Batch) -> Predictions:
        """Label maps at the resolution of the frames."""
        features = self.front.features(batch)  # (B, C, h, w)
        found = self.segmenter.predict(batch["frames"][:, 0])
        return self.back.predict(
            RegionMaskBatch(
                features=list(features),
                boxes=[regions.boxes for regions in found],
                soft_masks=[regions.soft_masks for regions in found],
                shape=(batch["frames"].shape[2], batch["frames"].shape[3]),
            )
        )


def roi_pool(features: Tensor, boxes: Tensor, *, stride: int, side: int) -> Tensor:
    """RoI max pooling of Fast R-CNN (Girshick 2015, section 2.1): (C, h, w) and (R, 4) to (R, C, side, side).

    A box in frame pixels takes the cells from that of its first to that of its last pixel, each rounded to whole cells
    of ``stride`` pixels. Bin i of n cells is floor(i n / side) to ceil((i + 1) n / side), so bins share cells where n
    is no multiple of ``side``. Boxes are cut at the edge of the map first (the original leaves bins beyond it at 0):
    one that lies outside, or has no area, is pooled from the nearest cell, and has no pixel to label anyway.
    """
    sizes = features.new_tensor((features.shape[2], features.shape[1])).repeat(2) - 1  # of the last cell: x, y, x, y
    first_and_last = boxes - boxes.new_tensor((0, 0, 1, 1))
    cells = (first_and_last / stride + 0.5).floor().clamp(min=0).minimum(sizes)
    # Pooled several times faster on CPUs; no copy where the features are laid out so already.
    maps = features[None].contiguous(memory_format=torch.channels_last)
    pooled = [
        F.adaptive_max_pool2d(maps[:, :, top : max(top, bottom) + 1, left : max(left, right) + 1], side)
        for left, top, right, bottom in cells.int().tolist()
    ]
    return torch.cat(pooled) if pooled else features.new_zeros(0, len(features), side, side)


def _classifier(inputs: int, classes: int, config: Config) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in config.hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Dropout(config.dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
