"""Confusion matrices of A2D's whole test set (made-up maps of its number and size), on one core.

Over torchmetrics', and over numpy's bincount of ``truth * classes + predicted``, frame by frame.
"""

from collections.abc import Callable
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmarks.ratio import Ratio, seconds
from stages.core import cli
from stages.core.datasets.labels import A2D, IGNORE
from stages.core.scores import confusion

CLASSES = A2D.ids
DISTINCT = 40
"""Pairs of maps that are made; the frames go round them, so that memory holds what a reader would."""


Maps = tuple[np.ndarray, np.ndarray]


def measure(*, against: str = "torchmetrics", frames: int = 2365, height: int = 320, width: int = 568) -> Ratio:
    """Count every pixel of ``frames`` pairs of maps both ways. Raises ``AssertionError`` where the counts differ."""
    other = {"torchmetrics": _by_torchmetrics, "bincount": _by_bincount}[against]
    random = np.random.default_rng(0)
    pairs = [_pair(random, height, width) for _ in range(min(DISTINCT, frames))]
    ours, theirs = np.zeros((2, CLASSES, CLASSES), np.int64)

    def count(matrix: np.ndarray, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        for number in range(frames):
            matrix[...] += function(*pairs[number % len(pairs)])

    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        ratio = Ratio(
            name=f"confusion_{against}",
            claim=f"our confusion matrices over those of {against}, on one core",
            seconds=seconds(lambda: count(ours, lambda t, p: confusion.confusion(t, p, classes=CLASSES))),
            against=seconds(lambda: count(theirs, other)),
            of=f"{frames} maps of {height} x {width}",
        )
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    assert np.array_equal(ours, theirs), "the counts differ"
    return ratio


def _by_torchmetrics(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    maps = [torch.from_numpy(labels) for labels in (predicted, truth)]
    matrix = multiclass_confusion_matrix(*maps, num_classes=CLASSES, ignore_index=IGNORE, validate_args=False)
    return np.asarray(matrix.numpy())


def _by_bincount(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    cells = truth.astype(np.uint16) * CLASSES + predicted
    return np.bincount(cells.ravel(), minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)


def _pair(random: np.random.Generator, height: int, width: int) -> Maps:
    """Truth with two ragged figures on background, and the same map shifted, with specks, as the prediction."""
    truth = np.zeros((height, width), np.uint8)
    for label in random.choice(A2D.valid_ids[1:], 2, replace=False):
        noise = cv2.GaussianBlur(random.normal(size=(height, width)).astype(np.float32), (0, 0), 6)
        inside = np.zeros((height, width), np.float32)
        centre = (int(random.integers(width // 4, 3 * width // 4)), int(random.integers(height // 4, 3 * height // 4)))
        cv2.ellipse(inside, centre, (width // 7, height // 5), float(random.uniform(0, 180)), 0, 360, 1.0, -1)
        truth[cv2.GaussianBlur(inside, (0, 0), 9) + 3 * noise > 0.5] = label
    predicted = np.roll(truth, 3, axis=1)
    predicted[random.random(predicted.shape) < 0.001] = 0
    return truth, predicted


def main(frames: Annotated[int, typer.Option(help="pairs of maps", min=1)] = 2365) -> None:
    """Confusion matrices against torchmetrics and against numpy."""
    for against in ("torchmetrics", "bincount"):
        print(measure(against=against, frames=frames))


if __name__ == "__main__":
    cli.run(main)
