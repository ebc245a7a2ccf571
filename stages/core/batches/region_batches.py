"""Batches for methods that label region masks: features of the front-end, the regions of the frame, its labels.

In training the true regions join those that were found (Dang et al. 2018, section 4: small objects are not tightly
covered by what a segmenter finds). Nothing is augmented, since features are those of whole frames.

Axes: C channels, h, w features; H, W frame as the front-end saw it; R regions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from models import IGNORE
from models.parts.region_types import RegionMaskBatch
from stages.core.batches.sampler import drawn_batches
from stages.core.datasets.dataset import Dataset
from stages.core.packs.features import ClipFeatures
from stages.core.packs.frames import Clip
from stages.core.packs.regions import ClipRegions, true_regions

TRUE_MASKS = "true_masks"
"""Variant that is tested with the true regions in place of those that were found: an upper bound."""


@dataclass(frozen=True)
class Regional:
    """One frame's part of a batch; boxes are in pixels of the frame as the front-end saw it."""

    features: np.ndarray  # (C, h, w) float32
    boxes: np.ndarray  # (R, 4) float32
    soft_masks: np.ndarray  # (R, 28, 28) float32
    labels: np.ndarray  # (H, W) uint8, IGNORE where nobody labelled


def read(
    samples: Dataset, video: str, frame: int, *, height: int | None, found: bool, true: bool, labelled: bool
) -> Regional:
    """One annotated frame with the regions that were ``found``, the ``true`` ones, or both."""
    assert samples.features_folder is not None and samples.regions_folder is not None
    regions = []
    if found:
        regions.append(_open_regions(samples.regions_folder / f"{video}.arrow").frame(frame))
    if true:
        regions.append(true_regions(samples.actors(video, frame)))
    boxes = np.concatenate([one.boxes for one in regions])
    clip = _open_clip(samples.clips_folder / f"{video}.arrow")
    labels = samples.labels(video, frame) if labelled else np.full((clip.height, clip.width), IGNORE, np.uint8)
    if height is not None and height != clip.height:
        width = max(1, round(clip.width * height / clip.height))  # as `transforms.to_height` has it
        labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        boxes = boxes * np.array([width / clip.width, height / clip.height] * 2, np.float32)
    return Regional(
        features=_open_features(samples.features_folder / f"{video}.arrow").frame(frame),
        boxes=boxes,
        soft_masks=np.concatenate([one.soft_masks for one in regions]),
        labels=labels,
    )


def to_batch(frames: Sequence[Regional]) -> RegionMaskBatch:
    """Frames side by side. Labels of smaller ones are padded at the right and below."""
    height, width = (max(frame.labels.shape[axis] for frame in frames) for axis in (0, 1))
    return RegionMaskBatch(
        features=[torch.from_numpy(frame.features) for frame in frames],
        boxes=[torch.from_numpy(frame.boxes) for frame in frames],
        soft_masks=[torch.from_numpy(frame.soft_masks) for frame in frames],
        shape=(height, width),
        labels=torch.from_numpy(np.stack([_padded(frame.labels, height, width) for frame in frames]))[:, None],
    )


class _Frames(TorchDataset[Regional]):
    """Annotated frames by (number of the draw, position)."""

    def __init__(self, samples: Dataset, height: int | None) -> None:
        self._samples, self._height = samples, height

    def __len__(self) -> int:
        return len(self._samples.frames)

    def __getitem__(self, drawn: tuple[int, int]) -> Regional:
        one = self._samples.frames[drawn[1]]
        return read(self._samples, one.video, one.frame, height=self._height, found=True, true=True, labelled=True)


def training_batches(
    samples: Dataset, config: Any, *, seed: int, start: int, steps: int, batch: int, loaders: int
) -> Iterator[RegionMaskBatch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead (0: none)."""
    frames = _Frames(samples, config.height)
    return drawn_batches(frames, seed=seed, start=start, steps=steps, batch=batch, loaders=loaders, collate=to_batch)


def of_clip(samples: Dataset, video: str, config: Any, *, true: bool) -> Iterator[tuple[int, RegionMaskBatch]]:
    """Annotated frames of one clip, unlabelled, with the regions that were found or the ``true`` ones."""
    for frame in samples.annotated(video):
        one = read(samples, video, frame, height=config.height, found=not true, true=true, labelled=False)
        yield frame, to_batch([one])


def _padded(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    missing = ((0, height - labels.shape[0]), (0, width - labels.shape[1]))
    return np.pad(labels, missing, constant_values=IGNORE)


@lru_cache(maxsize=64)
def _open_clip(path: Path) -> Clip:
    return Clip(path)


@lru_cache(maxsize=64)
def _open_features(path: Path) -> ClipFeatures:
    return ClipFeatures(path)


@lru_cache(maxsize=64)
def _open_regions(path: Path) -> ClipRegions:
    return ClipRegions(path)
