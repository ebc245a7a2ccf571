"""Generated clips for pretraining: endless, each from its number and the seed alone.

One to three figures a clip, from the pool `pretrain`, whose figures, textures and backgrounds the sample does not hold.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.classifier import ClipBatch
from stages.core.flow import colour_wheel
from stages.core.generator import make_clip
from stages.core.labels import VALID_IDS
from stages.core.transforms import jitter

POOL = "pretrain"
STILLS = (4, 11)
"""Frames of a clip that the 2D encoders see."""


class GeneratedClips(Dataset[ClipBatch]):
    """Clip ``number``: the labels of its first figure go round the 43 pairs, those of the others are drawn.

    Square crops of ``side`` pixels near the first figure, so that few pixels are background; 3D encoders get them
    scaled to ``side3d``.
    """

    def __init__(self, *, seed: int, height: int, side: int, side3d: int, frames: int) -> None:
        self._seed, self._height, self._side, self._side3d, self._frames = seed, height, side, side3d, frames

    def __getitem__(self, number: int) -> ClipBatch:
        random = np.random.default_rng((self._seed, number))
        pairs = VALID_IDS[1:]
        others = random.choice(pairs, size=random.integers(0, 3)).tolist()
        clip = make_clip(
            self._seed * 1_000_003 + number, POOL, height=self._height, width=2 * (self._height * 2 // 3),
            frames=self._frames, labels=[pairs[number % len(pairs)], *others],
        )  # fmt: skip
        top, left = self._corner(clip.masks[:, 0], random)
        step = -1 if random.random() < 0.5 else 1
        crop = (slice(None), slice(top, top + self._side), slice(left, left + self._side))
        frames, labels = (np.ascontiguousarray(array[crop][:, :, ::step]) for array in (clip.frames, clip.semantic))
        frames = jitter(frames, random)
        stills = [still for still in STILLS if still + 1 < self._frames]
        small = (self._side3d, self._side3d)
        arrays = {
            "stills": frames[stills],
            "flow": np.stack([colour_wheel(_flow(frames[still], frames[still + 1])) for still in stills]),
            "still_labels": labels[stills],
            "frames": np.stack([cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in frames]),
            "labels": np.stack([cv2.resize(label, small, interpolation=cv2.INTER_NEAREST_EXACT) for label in labels]),
        }
        return ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})  # type: ignore[typeddict-item]

    def _corner(self, masks: np.ndarray, random: np.random.Generator) -> tuple[int, int]:
        """Top and left of a crop around where the figure is over time, shifted at random."""
        seen = np.argwhere(masks.any(0))
        centre = seen.mean(0) if len(seen) else np.array(masks.shape[1:]) / 2
        centre = centre + random.uniform(-0.2, 0.2, 2) * self._side
        limits = np.array(masks.shape[1:]) - self._side
        top, left = np.clip(np.rint(centre - self._side / 2), 0, limits).astype(int)
        return int(top), int(left)


def batches(clips: GeneratedClips, start: int, *, steps: int, batch: int, loaders: int) -> Iterator[ClipBatch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes generate ahead."""
    numbers = [list(range(step * batch, (step + 1) * batch)) for step in range(start, steps)]
    loader = DataLoader(
        clips,
        batch_sampler=numbers,
        num_workers=loaders,
        # spawn: a reader whose parent was killed sees it and ends; one of a fork server does not
        multiprocessing_context="spawn" if loaders else None,
        worker_init_fn=_single_thread,
        prefetch_factor=3 if loaders else None,
    )
    return iter(loader)


def _flow(image: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Flow as the optical_flow stage estimates it, so that the encoder meets the same errors later."""
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    first, second = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, following))
    return estimator.calc(first, second, np.zeros((*first.shape, 2), np.float32))


def _single_thread(worker: int) -> None:
    del worker
    cv2.setNumThreads(1)
