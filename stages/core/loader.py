"""Batches for training and evaluation: which windows (sampler), how they are read, transformed and stacked.

A training step's batch depends on (seed, step) alone, so a training that goes on after a kill sees the same batches.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from models.base import Batch, Window
from stages.core import flow, transforms
from stages.core.dataset import Dataset, Sample
from stages.core.sampler import Sampler

ENCODINGS = {"colour_wheel": flow.colour_wheel, "clipped": flow.clipped, "magnitude": flow.with_magnitude}


def window_numbers(frame: int, window: Window) -> list[int]:
    """Frame numbers of the window around ``frame``; some may lie outside the clip (readers clamp)."""
    return list(range(frame - window.before, frame + window.after + 1))


def to_batch(samples: list[Sample], *, encoding: str) -> Batch:
    """Stack samples of one size; flow is encoded last."""
    batch = Batch(
        frames=torch.from_numpy(np.stack([sample.frames for sample in samples])),
        labels=torch.from_numpy(np.stack([sample.labels for sample in samples])),
    )
    if samples[0].flow is not None:
        encode = ENCODINGS[encoding]
        fields = [np.stack([encode(field) for field in sample.flow]) for sample in samples if sample.flow is not None]
        batch["flow"] = torch.from_numpy(np.stack(fields))
    return batch


class _Windows(TorchDataset[Sample]):
    """Augmented windows around annotated frames, by (number of the draw, position)."""

    def __init__(self, dataset: Dataset, config: Any, *, seed: int) -> None:
        self._dataset, self._config, self._seed = dataset, config, seed

    def __getitem__(self, drawn: tuple[int, int]) -> Sample:
        number, position = drawn
        frame = self._dataset.frames[position]
        sample = self._dataset.window(frame.video, window_numbers(frame.frame, self._config.window))
        sample = transforms.to_height(sample, self._config.height)
        if self._config.crop is None:
            return sample
        return transforms.augment(sample, np.random.default_rng((self._seed, number)), size=self._config.crop)


class _Stack:
    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def __call__(self, samples: list[Sample]) -> Batch:
        return to_batch(samples, encoding=self._encoding)


def training_batches(
    dataset: Dataset, config: Any, *, seed: int, start: int, steps: int, batch: int, loaders: int
) -> Iterator[Batch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead (0: none)."""
    loader = DataLoader(
        _Windows(dataset, config, seed=seed),
        batch_sampler=Sampler(len(dataset.frames), batch=batch, seed=seed, start=start, steps=steps),
        collate_fn=_Stack(config.flow_encoding),
        num_workers=loaders,
        # spawn: a reader whose parent was killed sees it and ends; one of a fork server does not
        multiprocessing_context="spawn" if loaders else None,
        prefetch_factor=4 if loaders else None,
    )
    return iter(loader)
