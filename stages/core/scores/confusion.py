"""Segmentation scores of A2D, from confusion matrices (reference: Xu et al. 2015; TSMT's evaluator).

One confusion matrix over all pixels of all frames, background and `none` in. Global accuracy is the share of right
pixels; class accuracy and IoU are means over the classes that occur in the ground truth. Joint scores run over the
valid ids: an invalid pair predicted loses recall and is nobody's false positive. Values are percent.
Axes: truth in rows, prediction in columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import cv2
import numpy as np

from stages.core.datasets.labels import IGNORE, LabelSpace
from stages.core.scores import resampling

HEADS = ("actor", "action")
FIGURES = ("global_accuracy", "class_accuracy", "mean_iou")
"""The three columns of the papers' tables: glo, ave and mIoU."""


@dataclass(frozen=True)
class Scores:
    """Scores of one kind of label, in percent; ``accuracy`` and ``iou`` by class, NaN where the truth has none."""

    global_accuracy: float
    class_accuracy: float
    mean_iou: float
    accuracy: np.ndarray
    iou: np.ndarray
    classes: int  # with ground truth; what the means run over

    def summary(self) -> dict[str, float]:
        """The three figures of the papers' tables."""
        return {
            "global_accuracy": self.global_accuracy,
            "class_accuracy": self.class_accuracy,
            "mean_iou": self.mean_iou,
        }


@dataclass(frozen=True)
class Confusions:
    """Confusion matrices of the clips compared: the evidence of every segmentation score."""

    clips: list[str]
    matrices: Mapping[str, np.ndarray]  # joint and, of heads of their own, actor and action: (clips, K, K) int64
    label_space: LabelSpace

    @cached_property
    def _cells(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Kind -> cells that any clip fills, (n,), and their counts, (clips, n): few of the 80 x 80 are."""
        found = {}
        for kind, clips in self.matrices.items():
            flat = clips.reshape(len(clips), -1)
            filled = np.flatnonzero(flat.any(0))
            found[kind] = (filled, flat[:, filled].astype(np.float64))
        return found

    def pooled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Kind -> (K, K) float64, the clips' matrices summed with ``weights`` (clips,)."""
        found = {}
        for kind, (filled, counts) in self._cells.items():
            matrix = np.zeros(self.matrices[kind].shape[1:])
            matrix.reshape(-1)[filled] = weights @ counts
            found[kind] = matrix
        return found

    def scores(self, weights: np.ndarray) -> dict[str, Scores]:
        """Scores of joint, actor and action as marginals of the joint map, and of each head's own map."""
        pooled = self.pooled(weights)
        heads = {f"{kind}_head": scores(pooled[kind]) for kind in HEADS if kind in pooled}
        return all_scores(pooled["joint"], self.label_space) | heads

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``<kind>/<figure>`` in percent."""
        return {
            f"{kind}/{figure}": value
            for kind, found in self.scores(weights).items()
            for figure, value in found.summary().items()
        }

    def only(self, clips: Sequence[str]) -> "Confusions":
        """Those ``clips``, in their order."""
        places = [self.clips.index(clip) for clip in clips]
        return Confusions(list(clips), {kind: all_[places] for kind, all_ in self.matrices.items()}, self.label_space)

    def joined(self, other: Self) -> Self:
        """The clips of both; of maps that only one of them has, nothing."""
        both = [kind for kind in self.matrices if kind in other.matrices]
        matrices = {kind: np.concatenate([self.matrices[kind], other.matrices[kind]]) for kind in both}
        return type(self)([*self.clips, *other.clips], matrices, self.label_space)


def confusion(truth: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """(classes, classes) int64 counts of (truth, predicted) over pixels whose truth is labelled.

    Both maps are uint8, of one shape. Raises ``ValueError`` for maps of different shapes, or an id that does not exist.
    """
    if truth.shape != predicted.shape:
        raise ValueError(
            f"prediction of {predicted.shape[-2:]} for a truth of {truth.shape[-2:]}; resize it to the frame"
        )
    flat_truth, flat_predicted = (np.ascontiguousarray(labels, np.uint8).ravel() for labels in (truth, predicted))
    # Label maps are long runs of one pair of ids: to find where runs end is several times faster than to count pixels.
    ends = (flat_truth[1:] != flat_truth[:-1]) | (flat_predicted[1:] != flat_predicted[:-1])
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1])[: flat_truth.size]
    lengths = np.diff(starts, append=flat_truth.size)
    true, found = flat_truth[starts].astype(np.int64), flat_predicted[starts].astype(np.int64)
    if wrong := np.unique(true[(true >= classes) & (true != IGNORE)]).tolist():
        raise ValueError(f"truth holds ids {wrong}; ids are below {classes}, or {IGNORE} where nobody labelled")
    if found.max(initial=0) >= classes:
        raise ValueError(f"predicted id {found.max()}; ids are below {classes}")
    labelled = true != IGNORE
    cells = true[labelled] * classes + found[labelled]
    counts = np.bincount(cells, weights=lengths[labelled], minlength=classes * classes)  # float64: exact to 2 ** 53
    return counts.astype(np.int64).reshape(classes, classes)


def boundary_band(truth: np.ndarray, *, width: int) -> np.ndarray:
    """(H, W) bool: a band of ``width`` pixels in all around label changes (Dang et al. 2018, section 4.2).

    A pixel that differs from its right or lower neighbour is the middle; ``width`` is odd, so that 15 leaves out 7 to
    each side of it. The paper can also be read as 15 to each side: that is a ``width`` of 31.
    """
    if width % 2 == 0:
        raise ValueError(f"a band of {width} pixels has no middle; write an odd width")
    change = np.zeros(truth.shape, np.uint8)
    change[:, :-1] |= truth[:, :-1] != truth[:, 1:]
    change[:-1] |= truth[:-1] != truth[1:]
    return cv2.dilate(change, np.ones((width, width), np.uint8)).astype(bool)


def scores(matrix: np.ndarray, *, classes: np.ndarray | None = None) -> Scores:
    """Scores of a confusion matrix. ``classes`` are the ids that count in the means (all, where None)."""
    counted = np.arange(len(matrix)) if classes is None else classes
    right = np.diag(matrix).astype(float)
    truth, predicted = matrix.sum(1).astype(float), matrix.sum(0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = 100 * right / truth
        iou = 100 * right / (truth + predicted - right)
    iou[truth == 0] = np.nan
    present = counted[truth[counted] > 0]
    if len(present) == 0:
        nan = float("nan")
        return Scores(nan, nan, nan, accuracy, iou, 0)
    return Scores(
        global_accuracy=float(100 * right[counted].sum() / truth[counted].sum()),
        class_accuracy=float(accuracy[present].mean()),
        mean_iou=float(iou[present].mean()),
        accuracy=accuracy,
        iou=iou,
        classes=len(present),
    )


def marginals(joint: np.ndarray, labels: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """The actor's and the action's confusion matrix of joint ids: sums of the joint one's cells."""
    actors = len(labels.actors)
    cells = joint.reshape(actors, labels.stride, actors, labels.stride)
    return cells.sum((1, 3)), cells.sum((0, 2))


def all_scores(joint: np.ndarray, labels: LabelSpace) -> dict[str, Scores]:
    """Scores of joint, actor and action, the last two as marginals of the joint map (as TSMT's evaluator does)."""
    actor, action = marginals(joint, labels)
    return {
        "actor": scores(actor),
        "action": scores(action),
        "joint": scores(joint, classes=np.array(labels.valid_ids)),
    }


def class_rows(confusions: Confusions) -> list[tuple[str, int, str, float, float]]:
    """(kind, id, name, accuracy, IoU) of every class with ground truth, in percent."""
    rows = []
    labels = confusions.label_space
    found = confusions.scores(np.ones(len(confusions.clips)))
    for kind, names in (("actor", labels.actors), ("action", labels.actions), ("joint", None)):
        for label in np.flatnonzero(~np.isnan(found[kind].iou)):
            name = labels.name(int(label)) if names is None else names[label]
            rows.append((kind, int(label), name, float(found[kind].accuracy[label]), float(found[kind].iou[label])))
    return rows


def most_frequent_action(joint: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """(actors,) joint id of each actor's most frequent action, by pixels of ground truth in ``joint``'s rows."""
    pixels = joint.sum(1).reshape(-1, labels.stride)
    return np.arange(len(pixels)) * labels.stride + pixels.argmax(1)


def oracle(joint: np.ndarray, frequent: np.ndarray) -> np.ndarray:
    """Confusion matrix of the oracle: the true mask and actor, and that actor's ``frequent`` action, always.

    What a method must beat to show that it tells actions apart.
    """
    matrix = np.zeros_like(joint)
    pixels = joint.sum(1)
    actors = np.arange(len(pixels)) // (len(pixels) // len(frequent))
    np.add.at(matrix, (np.arange(len(pixels)), frequent[actors]), pixels)
    return matrix
