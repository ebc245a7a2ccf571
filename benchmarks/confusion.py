"""Confusion matrices of A2D's whole test set (made-up maps of its number and size) over torchmetrics', on one core."""

from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmarks.ratio import Ratio, seconds
from stages.core import cli, metrics
from stages.core.labels import A2D, IGNORE

CLASSES = metrics.JOINT_IDS
DISTINCT = 40
"""Pairs of maps that are made; the frames go round them, so that memory holds what a reader would."""


def measure(*, frames: int = 2365, height: int = 320, width: int = 568) -> Ratio:
    """Count every pixel of ``frames`` pairs of maps both ways. Raises ``AssertionError`` where the counts differ."""
    random = np.random.default_rng(0)
    pairs = [_pair(random, height, width) for _ in range(min(DISTINCT, frames))]
    tensors = [[torch.from_numpy(labels) for labels in pair] for pair in pairs]
    ours, theirs = np.zeros((2, CLASSES, CLASSES), np.int64)

    def count() -> None:
        for number in range(frames):
            ours[...] += metrics.confusion(*pairs[number % len(pairs)], classes=CLASSES)

    def count_by_torchmetrics() -> None:
        for number in range(frames):
            truth, predicted = tensors[number % len(pairs)]
            matrix = multiclass_confusion_matrix(
                predicted, truth, num_classes=CLASSES, ignore_index=IGNORE, validate_args=False
            )
            theirs[...] += matrix.numpy()

    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        ratio = Ratio(
            name="confusion",
            claim="our confusion matrices over torchmetrics', on one core",
            seconds=seconds(count),
            against=seconds(count_by_torchmetrics),
            of=f"{frames} maps of {height} x {width}",
        )
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    assert np.array_equal(ours, theirs), "the counts differ"
    return ratio


def _pair(random: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth with two boxes on background, and the same map shifted as the prediction."""
    truth = np.zeros((height, width), np.uint8)
    for label in random.choice(A2D.valid_ids[1:], 2, replace=False):
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        truth[top : top + height // 3, left : left + width // 3] = label
    return truth, np.roll(truth, 3, axis=1)


def main(frames: Annotated[int, typer.Option(help="pairs of maps", min=1)] = 2365) -> None:
    """Confusion matrices against torchmetrics."""
    print(measure(frames=frames))


if __name__ == "__main__":
    cli.run(main)
