"""Pairs of frames with exact flow, for training a FlowNet: generated ones, and FlyingChairs where the user has it.

A draw depends on the seed and its number alone, so that a training that goes on after a kill sees the same batches.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.flownet import Pairs
from stages.core.flow.augmentation import PAPER, Ranges, augment
from stages.core.flow.files import Pair, read_pair
from stages.core.generator.pairs import make_pair
from stages.core.sampler import Sampler

RANGES = {
    "paper": PAPER,
    # In the paper's, motion reaches 120 pixels: in 900 steps the small network learned nothing from it.
    "small": Ranges(
        translation=0.05,
        rotation=6.0,
        scale=(0.95, 1.2),
        relative=0.01,
        noise=(0.0, 0.02),
        contrast=(-0.3, 0.3),
        colour=(0.8, 1.25),
        gamma=(0.8, 1.25),
        brightness=0.1,
    ),
}
"""How far pairs are augmented, by the size of the network."""


class TrainingPairs(Dataset[Pairs]):
    """``count`` generated pairs and those ``numbers`` of FlyingChairs at ``chairs``, augmented, by (draw, position).

    To make a pair costs more than to learn from it, so each process keeps those it has made.
    """

    def __init__(
        self,
        *,
        seed: int,
        count: int,
        height: int,
        width: int,
        crop: tuple[int, int],
        chairs: Path | None = None,
        numbers: Sequence[int] = (),
        ranges: Ranges = PAPER,
    ) -> None:
        if crop[0] > height or crop[1] > width:
            raise ValueError(f"train_flow: a crop of {crop} does not fit pairs of {height} x {width}; make them larger")
        self._seed, self._count, self._shape, self._crop = seed, count, (height, width), crop
        self._chairs, self._numbers, self._ranges = chairs, list(numbers), ranges
        self._made: dict[int, Pair] = {}

    def __len__(self) -> int:
        return self._count + len(self._numbers)

    def __getitem__(self, drawn: tuple[int, int]) -> Pairs:
        draw, position = drawn
        random = np.random.default_rng((self._seed, self._count + draw))
        pair = augment(self.pair(position), random, size=self._crop, ranges=self._ranges)
        arrays = (pair.first, pair.second, pair.flow)
        first, second, flow = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
        return Pairs(first=first, second=second, flow=flow)

    def pair(self, position: int) -> Pair:
        """The pair at ``position``, as it is: generated ones first, then FlyingChairs."""
        if position >= self._count:
            assert self._chairs is not None
            return read_pair(self._chairs, self._numbers[position - self._count])
        if position not in self._made:
            made = make_pair(self._seed, position, height=self._shape[0], width=self._shape[1])
            self._made[position] = Pair(made.first, made.second, made.flow)
        return self._made[position]


def batches(pairs: TrainingPairs, start: int, *, seed: int, steps: int, batch: int, loaders: int) -> Iterator[Pairs]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead."""
    loader = DataLoader(
        pairs,
        batch_sampler=Sampler(len(pairs), batch=batch, seed=seed, start=start, steps=steps),
        num_workers=loaders,
        # spawn: a reader whose parent was killed sees it and ends; one of a fork server does not
        multiprocessing_context="spawn" if loaders else None,
        worker_init_fn=_single_thread,
        prefetch_factor=4 if loaders else None,
    )
    return iter(loader)


def _single_thread(worker: int) -> None:
    del worker
    cv2.setNumThreads(1)
