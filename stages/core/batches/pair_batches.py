"""Pairs of frames with exact flow, for training a FlowNet: generated ones, and FlyingChairs where the user has it.

A draw depends on the seed and its number alone, so that a training that goes on after a kill sees the same batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from models.parts.flownet import Pairs
from stages.core.batches.pair_transforms import PAPER, Ranges, augment
from stages.core.batches.sampler import drawn_batches
from stages.core.generator.pairs import FARTHEST, make_pair
from stages.core.optical_flow.files import Pair, read_pair

RANGES = {
    "paper": PAPER,
    # In the paper's, motion reaches 120 pixels: in 900 steps the small network learned nothing from it. The second
    # frame has no motion of its own beside what the pair shows: that, too, takes more steps to learn.
    "small": Ranges(
        translation=0.07,
        rotation=3.0,
        scale=(1.0, 1.15),
        relative=0.0,
        noise=(0.0, 0.02),
        contrast=(-0.3, 0.3),
        colour=(0.8, 1.25),
        gamma=(0.8, 1.25),
        brightness=0.1,
    ),
}
"""How far pairs are augmented, by the size of the network."""
SLOWEST, FIRST = 0.1, 0.2
"""With a curriculum: reach of motion in the first pairs, as a share of the last ones', and the share of pairs it begins
with."""


@dataclass(frozen=True)
class Curriculum:
    """Slow pairs come first: in ``draws`` draws ever faster ones join them; half of all pairs are of full reach."""

    draws: int

    def farthest(self, number: int, count: int) -> float:
        """Pixels that anything moves at most in generated pair ``number`` of ``count``."""
        return FARTHEST * min(1.0, max(SLOWEST, 2 * (number + 1) / count))

    def position(self, draw: int, position: int) -> int:
        """The position that is drawn in place of ``position``: of the beginning that has joined by ``draw``."""
        return int(position * min(1.0, FIRST + (1 - FIRST) * draw / self.draws))


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
        curriculum: Curriculum | None = None,
    ) -> None:
        if crop[0] > height or crop[1] > width:
            raise ValueError(f"train_flow: a crop of {crop} does not fit pairs of {height} x {width}; make them larger")
        self._seed, self._count, self._shape, self._crop = seed, count, (height, width), crop
        self._chairs, self._numbers, self._ranges, self._curriculum = chairs, list(numbers), ranges, curriculum
        self._made: dict[int, Pair] = {}

    def __len__(self) -> int:
        return self._count + len(self._numbers)

    def __getitem__(self, drawn: tuple[int, int]) -> Pairs:
        draw, position = drawn
        random = np.random.default_rng((self._seed, self._count + draw))
        if self._curriculum is not None and position < self._count:
            position = self._curriculum.position(draw, position)
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
            reach = FARTHEST if self._curriculum is None else self._curriculum.farthest(position, self._count)
            made = make_pair(self._seed, position, height=self._shape[0], width=self._shape[1], farthest=reach)
            self._made[position] = Pair(made.first, made.second, made.flow)
        return self._made[position]


def batches(pairs: TrainingPairs, start: int, *, seed: int, steps: int, batch: int, loaders: int) -> Iterator[Pairs]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead."""
    return drawn_batches(pairs, seed=seed, start=start, steps=steps, batch=batch, loaders=loaders)
