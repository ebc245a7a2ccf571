"""Region masks: what an instance segmenter learns from, what it finds, and what labels the regions that it found.

A segmenter is one module (``models.parts.fcis``, ``models.parts.maskrcnn``) with ``Config`` (``paper`` and ``small``
are two values of it) and ``build(config, labels)``; the network has ``loss(batch) -> dict`` and ``predict(frames) ->
list[Regions]``. Axes: B frames, N instances of one frame, R regions of one frame, H, W frame, K classes (background
first).
"""

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

MASK_SIDE = 28
"""Rows and columns of a region's soft mask: 28 as Mask R-CNN has it; FCIS's 21 are resized to it."""


class RegionBatch(TypedDict):
    """Frames of one size and the instances in them; a frame may have none."""

    frames: Tensor  # (B, H, W, 3) uint8 RGB
    boxes: list[Tensor]  # B of (N, 4) float32 x1, y1, x2, y2, half open, in pixels
    labels: list[Tensor]  # B of (N,) int64, 1 to K - 1
    masks: list[Tensor]  # B of (N, H, W) bool


class InstanceBatch(TypedDict, total=False):
    """Windows of one size and the actors in their labelled frame, which may have none. T frames of a window."""

    frames: Tensor  # (B, T, H, W, 3) uint8 RGB
    flow: Tensor  # (B, T, H, W, 3) float32: u, v in pixels of the frame as given, and their magnitude
    boxes: list[Tensor]  # B of (N, 4) float32 x1, y1, x2, y2, half open, in pixels; training only, as all below
    labels: list[Tensor]  # B of (N,) int64 actors, 1 to K - 1
    actions: list[Tensor]  # B of (N,) int64, IGNORE where nobody told
    masks: list[Tensor]  # B of (N, H, W) bool


class RegionMaskBatch(TypedDict, total=False):
    """Frames, as their features, and the regions in them; a frame may have none.

    Frames may differ in size: ``shape`` is then that of the largest, to which labels are padded with IGNORE, at the
    right and at the bottom. Features are never padded.
    """

    features: Tensor | list[Tensor]  # (B, C, h, w) float32, of the front-end; or B of (C, h, w)
    boxes: list[Tensor]  # B of (R, 4) float32 x1, y1, x2, y2, half open, in pixels
    soft_masks: list[Tensor]  # B of (R, 28, 28) float32, 0 to 1
    shape: tuple[int, int]  # H, W of the largest frame: pixel scores and labels of others are padded below and right
    labels: Tensor  # (B, 1, H, W) uint8 joint ids, IGNORE where nobody labelled; training only


@dataclass(frozen=True)
class Regions:
    """What a segmenter found in one frame, best first."""

    boxes: Tensor  # (R, 4) float32 x1, y1, x2, y2, half open, in pixels, inside the frame
    scores: Tensor  # (R,) float32: how sure it is that there is an actor of the region's class
    class_scores: Tensor  # (R, K) float32, background first
    soft_masks: Tensor  # (R, 28, 28) float32: probability that a part of the box belongs to the actor


@dataclass(frozen=True)
class Detections:
    """Actors found in one frame and what each of them does, best first. R of them."""

    boxes: Tensor  # (R, 4) float32 x1, y1, x2, y2, half open, in pixels, inside the frame
    scores: Tensor  # (R,) float32: how sure it is that there is an actor of the likeliest kind
    actor_scores: Tensor  # (R, K_actor) float32, background first
    action_scores: Tensor  # (R, K_action) float32, background first
    soft_masks: Tensor  # (R, 28, 28) float32: probability that a part of the box belongs to the actor
