"""Batches for training and evaluation: windows chosen by the sampler, read, transformed, stacked.

A training step's batch depends on (seed, step) alone, so a training that goes on after a kill sees the same batches.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from models.base import Batch
from stages.core.batches import flow_encodings, transforms, windows
from stages.core.batches.sampler import drawn_batches
from stages.core.batches.windows import Sample
from stages.core.datasets.dataset import Dataset

ENCODINGS = {
    "colour_wheel": flow_encodings.colour_wheel,
    "clipped": flow_encodings.clipped,
    "magnitude": flow_encodings.with_magnitude,
}


class WordVectors(Protocol):
    """What gives the words of a sentence as vectors: ``stages.core.batches.words.Vectors``.

    Not imported from there, so that a change of it leaves trainings without sentences as they are.
    """

    def of(self, sentence: str) -> tuple[np.ndarray, list[str]]:
        """(L, C) float32, a row for each word that has a vector, and the words that have none."""


class SentenceBatch(Batch, total=False):
    """A batch whose windows have a sentence each; a ``models.parts.text.TextBatch`` too. L words of the longest
    sentence."""

    words: Tensor  # (B, L, C) float32, zeros behind a sentence's last word; L is 1 where no sentence has a known one
    lengths: Tensor  # (B,) int64, words of each sentence that have a vector


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
    if samples[0].actions is not None:
        batch["actions"] = _stack([sample.actions for sample in samples])
    if samples[0].mask is not None:
        batch["mask"] = _stack([sample.mask for sample in samples])
    sentences = [sample.sentence for sample in samples if sample.sentence is not None]
    if sentences:
        batch["sentences"] = sentences
    return batch


def with_words(batch: Batch, vectors: WordVectors) -> SentenceBatch:
    """``batch`` and the vectors of its sentences' words."""
    return SentenceBatch(**batch, **padded([vectors.of(sentence)[0] for sentence in batch["sentences"]]))


def padded(matrices: Sequence[np.ndarray]) -> SentenceBatch:
    """The words of some sentences, a matrix (words, C) each, as a batch that has nothing else."""
    longest = max(1, *(len(matrix) for matrix in matrices))
    rows = [np.pad(matrix, ((0, longest - len(matrix)), (0, 0))) for matrix in matrices]
    return SentenceBatch(
        words=torch.from_numpy(np.stack(rows)), lengths=torch.tensor([len(matrix) for matrix in matrices])
    )


def _stack(arrays: list[np.ndarray | None]) -> Tensor:
    return torch.from_numpy(np.stack([array for array in arrays if array is not None]))


class _Windows(TorchDataset[Sample]):
    """Augmented windows with an annotated frame each by (number of the draw, position); ``sentences``: and one each."""

    def __init__(self, dataset: Dataset, config: Any, *, seed: int, sentences: bool) -> None:
        self._dataset, self._config, self._seed, self._sentences = dataset, config, seed, sentences

    def __len__(self) -> int:
        return len(self._dataset.sentences if self._sentences else self._dataset.frames)

    def __getitem__(self, drawn: tuple[int, int]) -> Sample:
        number, position = drawn
        random = np.random.default_rng((self._seed, number))
        sample = self._read(position, random)
        if self._config.crop is None:
            return transforms.to_height(sample, self._config.height)
        augment = transforms.augment_whole if self._sentences else transforms.augment
        return augment(sample, random, height=self._config.height, size=self._config.crop)

    def _read(self, position: int, random: np.random.Generator) -> Sample:
        if self._sentences:
            asked = self._dataset.sentences[position]
            numbers = windows.drawn_numbers(asked.frame, self._config.window, random)
            return windows.read_sentence(self._dataset, asked, numbers)
        frame = self._dataset.frames[position]
        numbers = windows.drawn_numbers(frame.frame, self._config.window, random)
        return windows.read(self._dataset, frame.video, numbers)


class _Stack:
    def __init__(self, encoding: str, vectors: WordVectors | None) -> None:
        self._encoding, self._vectors = encoding, vectors

    def __call__(self, samples: list[Sample]) -> Batch:
        batch = to_batch(samples, encoding=self._encoding)
        return batch if self._vectors is None else with_words(batch, self._vectors)


def training_batches(
    dataset: Dataset,
    config: Any,
    *,
    seed: int,
    start: int,
    steps: int,
    batch: int,
    loaders: int,
    sentences: bool = False,
    vectors: WordVectors | None = None,
) -> Iterator[Batch]:
    """Batches of steps ``start`` to ``steps - 1``; ``loaders`` processes read ahead (0: none).

    A draw is an annotated frame or, of ``sentences``, a frame and a sentence about an actor in it: the frame then stays
    whole, and with ``vectors`` each is a ``SentenceBatch``. They must know the mirror images of the sentences, too.
    """
    assert sentences or vectors is None, "only sentences have words"
    drawn_from = _Windows(dataset, config, seed=seed, sentences=sentences)
    return drawn_batches(
        drawn_from,
        seed=seed,
        start=start,
        steps=steps,
        batch=batch,
        loaders=loaders,
        collate=_Stack(config.flow_encoding, vectors),
    )
