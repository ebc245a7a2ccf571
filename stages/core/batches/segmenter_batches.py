"""What a segmenter learns from: annotated frames of the data set, or pictures of another one that the generator makes.

Samples are drawn by (number of the draw, position) and depend on (seed, draw) alone. Axes: N instances, H, W picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from models.parts.region_types import RegionBatch
from stages.core.batches import instance_transforms, windows
from stages.core.batches.framing import Framing
from stages.core.batches.sampler import drawn_batches
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.instances import Frame, Instance, named
from stages.core.generator.stills import KINDS, Still, make_still


@dataclass(frozen=True)
class Annotated:
    """A picture and the instances in it."""

    picture: np.ndarray  # (H, W, 3) uint8 RGB
    labels: Sequence[int]  # N classes, from 1
    masks: np.ndarray  # (N, H, W) bool; they may overlap


class Source(Protocol):
    """Pictures by position."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> Annotated:
        """The picture at ``position``, as it is."""
        ...


class AnnotatedFrames:
    """The annotated frames of ``samples`` with their ``instances``; those whose actor nobody told are left out."""

    def __init__(self, samples: Dataset, instances: Mapping[Frame, Sequence[Instance]]) -> None:
        self._samples, self._instances = samples, instances

    def __len__(self) -> int:
        return len(self._samples.frames)

    def read(self, position: int) -> Annotated:
        """The annotated frame at ``position``."""
        frame = self._samples.frames[position]
        (picture,) = windows.read(self._samples, frame.video, [frame.frame], labelled=False).frames
        told, masks = named(self._instances[frame.video, frame.frame], picture.shape[:2])
        return Annotated(picture, [seen.actor for seen in told], masks)


class Stills:
    """``count`` generated pictures of ``shape`` (H, W); each process keeps those that it has made."""

    def __init__(self, *, seed: int, count: int, shape: tuple[int, int]) -> None:
        self._seed, self._count, self._shape = seed, count, shape
        self._made: dict[int, Still] = {}

    def __len__(self) -> int:
        return self._count

    def read(self, position: int) -> Annotated:
        """Still number ``position``."""
        if position not in self._made:
            self._made[position] = make_still(self._seed, position, height=self._shape[0], width=self._shape[1])
        made = self._made[position]
        return Annotated(made.picture, [KINDS.index(kind) for kind in made.kinds], made.masks)


class RegionSamples(TorchDataset[Annotated]):
    """Augmented pictures of ``source``, by (number of the draw, position)."""

    def __init__(self, source: Source, framing: Framing, *, seed: int) -> None:
        self._source, self._framing, self._seed = source, framing, seed

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, drawn: tuple[int, int]) -> Annotated:
        draw, position = drawn
        random = np.random.default_rng((self._seed, draw))
        seen = self._source.read(position)
        sample, masks, kept = instance_transforms.augment(
            seen.picture[None], seen.masks, random, height=self._framing.height, crop=self._framing.crop
        )
        return Annotated(sample.frames[0], [seen.labels[number] for number in kept], masks)


def to_batch(pictures: Sequence[Annotated]) -> RegionBatch:
    """Pictures side by side; smaller ones are padded with zeros at the right and below."""
    shape = tuple(max(seen.picture.shape[axis] for seen in pictures) for axis in (0, 1))
    return RegionBatch(
        frames=torch.from_numpy(
            np.stack([instance_transforms.padded(seen.picture, shape, rows=0) for seen in pictures])
        ),
        boxes=[torch.from_numpy(instance_transforms.boxes_of(seen.masks)) for seen in pictures],
        labels=[torch.tensor(seen.labels, dtype=torch.int64) for seen in pictures],
        masks=[torch.from_numpy(instance_transforms.padded(seen.masks, shape, rows=1)) for seen in pictures],
    )


def batches(
    samples: RegionSamples, start: int, *, seed: int, steps: int, batch: int, loaders: int
) -> Iterator[RegionBatch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead (0: none)."""
    return drawn_batches(
        samples, seed=seed, start=start, steps=steps, batch=batch, loaders=loaders, collate=to_batch
    )  # fmt: skip
