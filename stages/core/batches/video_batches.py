"""Batches for methods that say what a video shows: random clips of it, and all that it shows.

Frames and flow of a clip get the same crop and flip. The truth is the video's: the pairs of the instances in
all its annotated frames, whichever of its frames a clip holds.

Axes: B batch, T frames of a clip, P pairs without background.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from models.video_classifier import VideoBatch
from stages.core.batches import transforms, window_batches, windows
from stages.core.batches.sampler import drawn_batches
from stages.core.batches.windows import Sample
from stages.core.datasets import shown
from stages.core.datasets.dataset import Dataset
from stages.core.packs.frames import Clip

Shown = tuple[Sample, np.ndarray]
"""A clip, and (P,) float32: 1 where its video shows the pair."""


class _Clips(TorchDataset[Shown]):
    """Augmented random clips of videos, by (number of the draw, position of the video)."""

    def __init__(self, samples: Dataset, pairs: Mapping[str, np.ndarray], config: Any, *, seed: int) -> None:
        self._samples, self._pairs, self._config, self._seed = samples, pairs, config, seed
        self._videos = samples.videos

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, drawn: tuple[int, int]) -> Shown:
        number, position = drawn
        video = self._videos[position]
        random = np.random.default_rng((self._seed, number))
        length = len(Clip(self._samples.clips_folder / f"{video}.arrow"))
        start = int(random.integers(max(length - self._config.frames, 0) + 1))
        numbers = windows.clip_numbers(start, length=self._config.frames, frames=length)
        clip = windows.read(self._samples, video, numbers, labelled=False)
        augment = transforms.augment if self._config.jitter else transforms.augment_little
        return augment(clip, random, height=self._config.height, size=self._config.crop), self._pairs[video]


def to_batch(seen: Sequence[Shown], *, encoding: str) -> VideoBatch:
    """Clips of one size; flow is encoded last."""
    clips = window_batches.to_batch([clip for clip, _ in seen], encoding=encoding)
    batch = VideoBatch(frames=clips["frames"], pairs=torch.from_numpy(np.stack([pairs for _, pairs in seen])))
    if "flow" in clips:
        batch["flow"] = clips["flow"]
    return batch


def training_batches(
    samples: Dataset, config: Any, *, seed: int, start: int, steps: int, batch: int, loaders: int
) -> Iterator[VideoBatch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead (0: none).

    ``config`` says ``frames``, ``height``, ``crop``, ``jitter`` and ``flow_encoding``.
    """
    assert samples.index is not None, "loaded with its tables"
    truth = shown.load_truth(samples.index, labels=samples.label_space, split=samples.split)
    pairs = {video: shown.astype(np.float32) for video, shown in zip(truth.videos, truth.shown, strict=True)}
    return drawn_batches(
        _Clips(samples, pairs, config, seed=seed),
        seed=seed,
        start=start,
        steps=steps,
        batch=batch,
        loaders=loaders,
        collate=partial(to_batch, encoding=config.flow_encoding),
    )
