"""Batches for methods that learn from instances: windows around annotated frames, with the actors in the frame.

What lies at the same place in a window goes through the same transforms: frames, flow, and the masks of the instances,
whose boxes are drawn around what is left of them. An instance whose actor nobody told is left out; its action may be
unknown, and so are all actions of an actor that is held out (zero-shot).

Axes: B batch, T frames of the window, H height, W width, N instances of the annotated frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from models import IGNORE
from models.parts.region_types import InstanceBatch
from stages.core.batches import instance_transforms, windows
from stages.core.batches.sampler import drawn_batches
from stages.core.batches.window_batches import ENCODINGS
from stages.core.datasets import instances
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.instances import Frame, Instance


@dataclass(frozen=True)
class AnnotatedWindow:
    """A window and the instances in its annotated frame."""

    frames: np.ndarray  # (T, H, W, 3) uint8 RGB
    flow: np.ndarray | None  # (T, H, W, 2) float32 pixels
    actors: Sequence[int]  # N, from 1
    actions: Sequence[int]  # N, from 1; IGNORE where nobody told
    masks: np.ndarray  # (N, H, W) bool; they may overlap


class _Windows(TorchDataset[AnnotatedWindow]):
    """Augmented windows around annotated frames, by (number of the draw, position)."""

    def __init__(self, samples: Dataset, found: Mapping[Frame, Sequence[Instance]], config: Any, *, seed: int) -> None:
        self._samples, self._found, self._config, self._seed = samples, found, config, seed

    def __len__(self) -> int:
        return len(self._samples.frames)

    def __getitem__(self, drawn: tuple[int, int]) -> AnnotatedWindow:
        number, position = drawn
        one = self._samples.frames[position]
        # The labels have no place in the window, so the frame is always where the method looks for it.
        window = windows.read(self._samples, one.video, windows.numbers(one.frame, self._config.window), labelled=False)
        told, masks = instances.named(self._found[one.video, one.frame], window.frames.shape[1:3])
        window, masks, kept = instance_transforms.augment(
            window.frames,
            masks,
            np.random.default_rng((self._seed, number)),
            flow=window.flow,
            height=self._config.height,
            crop=self._config.crop,
        )
        left = [told[place] for place in kept]
        return AnnotatedWindow(
            frames=window.frames,
            flow=window.flow,
            actors=[seen.actor for seen in left],
            actions=[self._action(seen) for seen in left],
            masks=masks,
        )

    def _action(self, seen: Instance) -> int:
        told = seen.actions if seen.actor != self._samples.held_out else ()
        return told[0] if any(told) else IGNORE  # labels have 0 where nobody told


def to_batch(seen: Sequence[AnnotatedWindow], *, encoding: str) -> InstanceBatch:
    """Windows side by side; smaller ones are padded with zeros at the right and below. Flow is encoded last."""
    shape = tuple(max(window.frames.shape[axis] for window in seen) for axis in (1, 2))
    frames = [instance_transforms.padded(window.frames, shape, rows=1) for window in seen]
    batch = InstanceBatch(
        frames=torch.from_numpy(np.stack(frames)),
        boxes=[torch.from_numpy(instance_transforms.boxes_of(window.masks)) for window in seen],
        labels=[torch.tensor(window.actors, dtype=torch.int64) for window in seen],
        actions=[torch.tensor(window.actions, dtype=torch.int64) for window in seen],
        masks=[torch.from_numpy(instance_transforms.padded(window.masks, shape, rows=1)) for window in seen],
    )
    fields = [instance_transforms.padded(window.flow, shape, rows=1) for window in seen if window.flow is not None]
    if fields:
        encoded = [np.stack([ENCODINGS[encoding](field) for field in window]) for window in fields]
        batch["flow"] = torch.from_numpy(np.stack(encoded))
    return batch


def training_batches(
    samples: Dataset, config: Any, *, seed: int, start: int, steps: int, batch: int, loaders: int
) -> Iterator[InstanceBatch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead (0: none).

    ``config`` says ``window``, ``height``, ``crop`` (None: whole frames) and ``flow_encoding``.
    """
    drawn_from = _Windows(samples, instances.read(samples), config, seed=seed)
    return drawn_batches(
        drawn_from,
        seed=seed,
        start=start,
        steps=steps,
        batch=batch,
        loaders=loaders,
        collate=partial(to_batch, encoding=config.flow_encoding),
    )
