"""Segmentation scores of A2D, from confusion matrices (reference: Xu et al. 2015; TSMT's evaluator).

One confusion matrix over all pixels of all frames, background and `none` in. Global accuracy is the share of right
pixels; class accuracy and IoU are means over the classes that occur in the ground truth. Joint scores run over the 44
valid ids: an invalid pair predicted loses recall and is nobody's false positive. Values are percent.
Axes: truth in rows, prediction in columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from stages.core.labels import IGNORE, LabelSpace
from stages.core.params import Section

JOINT_IDS = 80
"""Joint ids are below this: actor * 10 + action with eight actors."""
EXACT = 1 << 24
"""OpenCV's counts are float32: whole up to here."""


class Parameters(Section):
    """Section ``evaluate`` of params.yaml: the bootstrap over clips, of scores and of differences alike."""

    resamples: int
    seed: int


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


def confusion(truth: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """(classes, classes) int64 counts of (truth, predicted) over pixels whose truth is labelled.

    Both maps are uint8, of one shape. Raises ``ValueError`` for maps of different shapes, or an id that does not exist.
    """
    if truth.shape != predicted.shape:
        raise ValueError(
            f"prediction of {predicted.shape[-2:]} for a truth of {truth.shape[-2:]}; resize it to the frame"
        )
    counts = np.zeros((classes, classes), np.int64)
    rows = [np.ascontiguousarray(labels, np.uint8).reshape(1, -1) for labels in (truth, predicted)]
    for start in range(0, rows[0].size, EXACT):
        # OpenCV counts pairs of bytes several times faster than bincount; what lies past `classes` it leaves out.
        part = [row[:, start : start + EXACT] for row in rows]
        counts += cv2.calcHist(part, [0, 1], None, [classes] * 2, [0, classes] * 2).astype(np.int64)
    if counts.sum() != np.count_nonzero(rows[0] != IGNORE) or (predicted.size and predicted.max() >= classes):
        wrong = [int(label) for label in np.unique(truth) if label >= classes and label != IGNORE]
        if wrong:
            raise ValueError(f"truth holds ids {wrong}; ids are below {classes}, or {IGNORE} where nobody labelled")
        raise ValueError(f"predicted id {int(predicted.max())}; ids are below {classes}")
    return counts


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


def marginals(joint: np.ndarray, *, actors: int, actions: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """The actor's and the action's confusion matrix of joint ids ``actor * 10 + action``: sums of the joint one's."""
    cells = joint.reshape(actors, actions, actors, actions)
    return cells.sum((1, 3)), cells.sum((0, 2))


def all_scores(joint: np.ndarray, labels: LabelSpace) -> dict[str, Scores]:
    """Scores of joint, actor and action, the last two as marginals of the joint map (as TSMT's evaluator does)."""
    actor, action = marginals(joint, actors=len(labels.actors))
    return {
        "actor": scores(actor),
        "action": scores(action),
        "joint": scores(joint, classes=np.array(labels.valid_ids)),
    }


def mean_iou(kind: str, labels: LabelSpace) -> Callable[[np.ndarray], float]:
    """The function joint confusion matrix -> mean IoU of ``kind`` (actor, action or joint), for ``bootstrap``."""

    def measure(joint: np.ndarray) -> float:
        return all_scores(joint, labels)[kind].mean_iou

    return measure


def most_frequent_action(joint: np.ndarray) -> np.ndarray:
    """(8, ) joint id of each actor's most frequent action, by pixels of ground truth in ``joint``'s rows."""
    pixels = joint.sum(1).reshape(-1, 10)
    return np.arange(len(pixels)) * 10 + pixels.argmax(1)


def oracle(joint: np.ndarray, frequent: np.ndarray) -> np.ndarray:
    """Confusion matrix of the oracle: the true mask and actor, and that actor's ``frequent`` action, always.

    What a method must beat to show that it tells actions apart.
    """
    matrix = np.zeros_like(joint)
    pixels = joint.sum(1)
    np.add.at(matrix, (np.arange(len(pixels)), frequent[np.arange(len(pixels)) // 10]), pixels)
    return matrix


def bootstrap(
    matrices: np.ndarray,
    measure: Callable[[np.ndarray], float],
    *,
    resamples: int,
    seed: int,
    other: np.ndarray | None = None,
) -> tuple[float, float]:
    """95 % interval of ``measure`` over clips: clips drawn with replacement, their matrices summed.

    ``matrices`` (clips, K, K). With ``other`` (the same clips in the same order): of the difference to it, paired.
    """
    random = np.random.default_rng(seed)
    count = len(matrices)
    values = []
    flat = matrices.reshape(count, -1).astype(np.float64)
    flat_other = None if other is None else other.reshape(count, -1).astype(np.float64)
    for _ in range(resamples):
        weights = np.bincount(random.integers(0, count, count), minlength=count)
        value = measure((weights @ flat).reshape(matrices.shape[1:]))
        if flat_other is not None:
            value -= measure((weights @ flat_other).reshape(matrices.shape[1:]))
        values.append(value)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
