"""Instances and the frames that they are in, transformed together: what segmenters and detectors learn from.

Axes: T frames, N instances, H, W frame.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stages.core.batches import transforms
from stages.core.batches.windows import Sample
from stages.core.datasets.labels import IGNORE
from stages.core.packs.regions import box_of

LEAST_PIXELS = 16
"""Of a mask: what a crop leaves of an instance may be too little to tell that it is one."""


def augment(
    frames: np.ndarray,
    masks: np.ndarray,
    random: np.random.Generator,
    *,
    flow: np.ndarray | None = None,
    height: int | None,
    crop: tuple[int, int] | None,
) -> tuple[Sample, np.ndarray, list[int]]:
    """Frames (T, H, W, 3), their flow (T, H, W, 2) and the masks (N, H, W) bool of instances, which may overlap.

    A ``crop`` (height, width) at a random scale and in other light, or without one whole frames; flipped half the time.
    ``height`` is that of the whole frame, None: its own. Returns frames and flow (without labels), the masks of which
    enough is left, and their positions in ``masks``.
    """
    # Transforms go through label maps one by one, so each mask is one, behind an empty one that is always there.
    empty = np.zeros((1, *masks.shape[1:]), bool)
    sample = Sample(frames=frames, labels=np.concatenate([empty, masks]).astype(np.uint8), flow=flow)
    if crop is not None:
        sample = transforms.augment(sample, random, height=height, size=crop)
    else:
        sample = transforms.to_height(sample, height)
        sample = transforms.flip(sample) if random.random() < 0.5 else sample
    masks = sample.labels[1:] == 1  # not 255, which lies outside the frame
    kept = [number for number, mask in enumerate(masks) if np.count_nonzero(mask) >= LEAST_PIXELS]
    unlabelled = np.full(sample.frames.shape[:3], IGNORE, np.uint8)
    return replace(sample, labels=unlabelled), masks[kept], kept


def padded(array: np.ndarray, shape: Sequence[int], *, rows: int) -> np.ndarray:
    """``array``, whose axes ``rows`` and the next are (H, W), with zeros at the right and below up to ``shape``."""
    missing = [(0, 0)] * array.ndim
    missing[rows : rows + 2] = [(0, shape[axis] - array.shape[rows + axis]) for axis in (0, 1)]
    return np.pad(array, missing)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """(N, 4) float32 x1, y1, x2, y2, half open, around masks (N, H, W) that are not empty."""
    return np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4)
