"""Generated clips for pretraining: as many as asked for, each from its number and the seed alone, seen again and again.

One to three figures a clip, from the pool `pretrain`, whose figures, textures and backgrounds the sample does not hold.
To make a clip costs more than to learn from it, so each is kept and cropped, mirrored and coloured anew for every draw.
"""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from models.parts.classifier import ClipBatch
from stages.core.batches.flow_encodings import clipped, colour_wheel
from stages.core.batches.photometry import jitter
from stages.core.batches.sampler import drawn_batches
from stages.core.datasets.labels import VALID_IDS
from stages.core.generator import make_clip
from stages.core.optical_flow import dis

POOL = "pretrain"
STILLS = 2
"""Frames of a draw that the 2D encoders see."""
LEAST_SIDE = 12
"""Pixels: the dense inverse search estimates no flow of smaller pictures."""


class GeneratedClips(Dataset[ClipBatch]):
    """``count`` clips by (number of the draw, number of the clip).

    The labels of a clip's first figure go round the 43 pairs, those of the others are drawn. Square crops of ``side``
    pixels near the first figure, so that few pixels are background; 3D encoders get them scaled to ``side3d``, and
    flow estimated at that size: in pixels of what they see.
    """

    def __init__(self, *, seed: int, count: int, height: int, side: int, side3d: int, frames: int) -> None:
        if frames <= STILLS:
            raise ValueError(f"pretrain.frames: {frames} are too few to learn motion from; write {STILLS + 1} or more")
        if not 0 < side <= height:
            raise ValueError(
                f"pretrain.side: crops of {side} pixels do not fit clips of {height}; write at most {height}"
            )
        if side3d < LEAST_SIDE:
            raise ValueError(f"pretrain.side3d: no flow of {side3d} pixels is estimated; write {LEAST_SIDE} or more")
        self._seed, self._count, self._height, self._frames = seed, count, height, frames
        self._side, self._side3d = side, side3d
        self._clips: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, drawn: tuple[int, int]) -> ClipBatch:
        draw, number = drawn
        random = np.random.default_rng((self._seed, self._count + draw))
        pictures, semantic, centre = self._clip(number)
        top, left = self._corner(pictures.shape[1:3], centre, random)
        step = -1 if random.random() < 0.5 else 1
        crop = (slice(None), slice(top, top + self._side), slice(left, left + self._side))
        frames, labels = (np.ascontiguousarray(array[crop][:, :, ::step]) for array in (pictures, semantic))
        frames = jitter(frames, random)
        stills = random.choice(self._frames - 1, STILLS, replace=False).tolist()
        small = (self._side3d, self._side3d)
        shrunk = np.stack([cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in frames])
        arrays = {
            "stills": frames[stills],
            # estimated, so that the encoder meets the same errors later
            "flow": np.stack([colour_wheel(dis.estimate(frames[still], frames[still + 1])) for still in stills]),
            "still_labels": labels[stills],
            "frames": shrunk,
            "motion": np.stack([clipped(field) for field in _forward_flow(shrunk)]),
            "labels": np.stack([cv2.resize(label, small, interpolation=cv2.INTER_NEAREST_EXACT) for label in labels]),
        }
        return ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})  # type: ignore[typeddict-item]

    def _clip(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (T, H, W, 3), labels (T, H, W), and where (row, column) the first figure is over time."""
        if number not in self._clips:
            random = np.random.default_rng((self._seed, number))
            pairs = VALID_IDS[1:]
            others = random.choice(pairs, size=random.integers(0, 3)).tolist()
            clip = make_clip(
                self._seed * 1_000_003 + number, POOL, height=self._height, width=2 * (self._height * 2 // 3),
                frames=self._frames, labels=[pairs[number % len(pairs)], *others],
            )  # fmt: skip
            seen = np.argwhere(clip.masks[:, 0].any(0))
            centre = seen.mean(0) if len(seen) else np.array(clip.frames.shape[1:3]) / 2
            self._clips[number] = (clip.frames, clip.semantic, centre)
        return self._clips[number]

    def _corner(self, shape: tuple[int, ...], centre: np.ndarray, random: np.random.Generator) -> tuple[int, int]:
        """Top and left of a crop around ``centre``, shifted at random."""
        shifted = centre + random.uniform(-0.2, 0.2, 2) * self._side
        top, left = np.clip(np.rint(shifted - self._side / 2), 0, np.array(shape) - self._side).astype(int)
        return int(top), int(left)


def _forward_flow(frames: np.ndarray) -> list[np.ndarray]:
    """Flow (H, W, 2) from each frame to the next; the last repeats the one before, as in stage `optical_flow`."""
    fields = [dis.estimate(frame, after) for frame, after in pairwise(frames)]
    return [*fields, fields[-1]]


def batches(
    clips: GeneratedClips, start: int, *, seed: int, steps: int, batch: int, loaders: int
) -> Iterator[ClipBatch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes generate ahead."""
    return drawn_batches(clips, seed=seed, start=start, steps=steps, batch=batch, loaders=loaders)
