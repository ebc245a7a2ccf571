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

POOL = "pretrain"
STILLS = (2, 6, 10, 14)
"""Frames of a clip that the 2D encoders see."""


class GeneratedClips(Dataset[ClipBatch]):
    """Clip ``number``: the labels of its first figure go round the 43 pairs, those of the others are drawn."""

    def __init__(self, *, seed: int, height: int, width: int, frames: int) -> None:
        self._seed, self._height, self._width, self._frames = seed, height, width, frames

    def __getitem__(self, number: int) -> ClipBatch:
        random = np.random.default_rng((self._seed, number))
        pairs = VALID_IDS[1:]
        others = random.choice(pairs, size=random.integers(0, 3)).tolist()
        clip = make_clip(
            self._seed * 1_000_003 + number, POOL, height=self._height, width=self._width, frames=self._frames,
            labels=[pairs[number % len(pairs)], *others],
        )  # fmt: skip
        step = -1 if random.random() < 0.5 else 1
        frames, labels = (np.ascontiguousarray(array[:, :, ::step]) for array in (clip.frames, clip.semantic))
        stills = [still for still in STILLS if still + 1 < self._frames]
        flow = np.stack([colour_wheel(_flow(frames[still], frames[still + 1])) for still in stills])
        return ClipBatch(
            frames=torch.from_numpy(frames),
            labels=torch.from_numpy(labels),
            stills=torch.tensor(stills),
            flow=torch.from_numpy(flow),
        )


def stack(clips: list[ClipBatch]) -> ClipBatch:
    """One batch of clips of one size."""
    return ClipBatch(
        frames=torch.stack([clip["frames"] for clip in clips]),
        labels=torch.stack([clip["labels"] for clip in clips]),
        stills=clips[0]["stills"],
        flow=torch.stack([clip["flow"] for clip in clips]),
    )


def batches(clips: GeneratedClips, start: int, *, steps: int, batch: int, loaders: int) -> Iterator[ClipBatch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes generate ahead."""
    numbers = [list(range(step * batch, (step + 1) * batch)) for step in range(start, steps)]
    loader = DataLoader(
        clips,
        batch_sampler=numbers,
        collate_fn=stack,
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
