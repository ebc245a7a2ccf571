"""Average precision of boxes that carry scores of actors and actions: which detection is right, and what that is worth.

Source: the evaluation of Kalogeiton et al. 2017 ("joint learning of object and action detectors"), which all later
figures on A2D follow. Of a class, in each frame: greedy non-maximum suppression above an IoU of 0.3; then the first
(highest scoring) detection that overlaps a ground truth is right, every other one is wrong. AP is VOC 2007's: the mean
over recalls 0, 0.1, ..., 1 of the best precision at that recall or a higher one; the recall counts all ground truth.

Boxes here are those of the protocol: 1-based, the last pixel included, so that a width is ``x2 - x1 + 1``.
``inclusive`` makes them of the tables' 0-based, half open ones: the same pixels, hence (x1 + 1, y1 + 1, x2, y2), for
ground truth and detections alike, so that a box found exactly has an IoU of 1. (The protocol's ground truth is A2D's
``reBBox``, which fits the masks as half open, rounded as if it were 1-based: a pixel more to the left and the top.)

What the protocol leaves open, and what is done: a box at an IoU of exactly 0.3 stays; a detection that is the first of
two ground truths is right once (the other is missed), and being the second of another one does not make it wrong; equal
scores of one class are counted together, so that the order of frames changes nothing (within a frame the table's order
decides); a recall is reached at ``10 * right >= k * positives``, without rounding.

Axes: C classes, D detections and G ground truths of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy import sparse

SUPPRESSION = 0.3
"""Of two detections of one class with a higher IoU, the one with the lower score goes."""
OVERLAP = 0.5
RECALLS = np.arange(11)
"""In tenths."""
COLUMNS = ("category", "score", "clip", "matched", "size")
"""What a ``Ranking`` knows of a detection."""


def inclusive(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) 0-based half open boxes as float64, 1-based, last pixel included."""
    return boxes.astype(np.float64) + np.array([1, 1, 0, 0])


def rounded(boxes: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Ground truth as the protocol keeps it: inclusive boxes rounded (halves up) and clipped to the frame."""
    return np.clip(np.floor(boxes + 0.5), 1, (width, height, width, height))


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N,) pixels of inclusive boxes."""
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) IoU of inclusive boxes (N, 4) and (M, 4); 0 for two boxes without a pixel."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low + 1, 0, None), axis=2)
    union = areas(first)[:, None] + areas(second)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def suppressed(iou: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(C, D) bool: what non-maximum suppression takes away, class by class.

    ``iou`` (D, D) of the detections, ``scores`` (C, D).
    """
    far = iou <= SUPPRESSION
    np.fill_diagonal(far, True)
    kept = np.ones(scores.shape, bool)
    rows = np.arange(len(scores))
    for box in np.argsort(-scores, axis=1, kind="stable").T:  # (C,) the next best detection of every class
        best = rows[kept[rows, box]]
        kept[best] &= far[box[best]]
    return ~kept


@dataclass(frozen=True)
class Ranking:
    """The detections of C classes over all clips, by class and falling score, and the ground truth they should find.

    A size is small, medium or large (0, 1, 2): ``matched`` has bit ``s`` set where the detection is the first of a
    ground truth of size ``s``, ``size`` is that of the detection's own box.
    """

    clips: Sequence[str]
    positives: np.ndarray  # (C, clips, 3) ground truths of each size
    category: np.ndarray  # (N,) position of the class
    score: np.ndarray  # (N,)
    clip: np.ndarray  # (N,) position of the clip
    matched: np.ndarray  # (N,) uint8
    size: np.ndarray  # (N,) uint8

    @classmethod
    def ordered(cls, clips: Sequence[str], positives: np.ndarray, **columns: np.ndarray) -> Self:
        """A ranking of detections in any order; ``columns`` are ``COLUMNS``."""
        order = np.lexsort((-columns["score"], columns["category"]))
        return cls(clips, positives, **{name: columns[name][order] for name in COLUMNS})

    @cached_property
    def _steps(self) -> tuple[np.ndarray, sparse.csr_array, sparse.csr_array]:
        """Where a recall is reached: bounds (C + 1,) of each class's steps, and by step and clip the right and the
        wrong detections since the step before.

        A step is a score that right detections have. The best precision at a recall is always at a step, so that
        nothing else has to be summed for every draw of clips.
        """
        right = self.matched > 0
        count = len(self.score)
        starts = np.ones(count, bool)
        starts[1:] = (self.score[1:] != self.score[:-1]) | (self.category[1:] != self.category[:-1])
        group = np.cumsum(starts) - 1
        is_step = np.zeros(group[-1] + 1 if count else 0, bool)
        is_step[group[right]] = True
        category_of_step = self.category[starts][is_step]
        step = (np.cumsum(is_step) - is_step)[group]  # the next one, or the group's own
        reached = step < len(category_of_step)
        reached[reached] = category_of_step[step[reached]] == self.category[reached]
        bounds = np.searchsorted(category_of_step, np.arange(len(self.positives) + 1))
        shape = (len(category_of_step), len(self.clips))

        def by_clip(chosen: np.ndarray) -> sparse.csr_array:
            cells = (np.ones(np.count_nonzero(chosen)), (step[chosen], self.clip[chosen]))
            return sparse.csr_array(sparse.coo_array(cells, shape=shape))

        return bounds, by_clip(reached & right), by_clip(reached & ~right)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """(C,) AP in percent with clip i counted ``weights[i]`` times; NaN for a class without ground truth."""
        bounds, right, wrong = self._steps
        positives = self.positives.sum(2) @ weights
        right_by_step, wrong_by_step = right @ weights, wrong @ weights
        found = np.full(len(positives), np.nan)
        for category in np.flatnonzero(positives > 0):
            steps = slice(bounds[category], bounds[category + 1])
            true, false = np.cumsum(right_by_step[steps]), np.cumsum(wrong_by_step[steps])
            counted = true + false
            precision = np.divide(true, counted, out=np.zeros_like(true), where=counted > 0)
            best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
            found[category] = 100 * best[np.searchsorted(10 * true, RECALLS * positives[category])].mean()
        return found

    def of_size(self, size: int) -> Self:
        """The same for ground truth of one size, by COCO's rule: ground truth of other sizes is left out with the
        detections matched to it, and a detection that is matched to none counts only if its own box has the size."""
        matched = self.matched & (1 << size)
        counted = (matched > 0) | ((self.matched == 0) & (self.size == size))
        positives = np.zeros_like(self.positives)
        positives[..., size] = self.positives[..., size]
        columns = {name: getattr(self, name)[counted] for name in COLUMNS} | {"matched": matched[counted]}
        return type(self)(self.clips, positives, **columns)

    def joined(self, other: Self) -> Self:
        """The clips of both, ``other``'s after its own."""
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in COLUMNS}
        columns["clip"][len(self.clip) :] += len(self.clips)
        positives = np.concatenate([self.positives, other.positives], axis=1)
        return self.ordered([*self.clips, *other.clips], positives, **columns)


def side_by_side(rankings: Sequence[Ranking]) -> Ranking:
    """Rankings of other classes on the same clips as one, the classes in the order of ``rankings``."""
    clips = rankings[0].clips
    assert all(list(ranking.clips) == list(clips) for ranking in rankings)
    columns = {name: np.concatenate([getattr(ranking, name) for ranking in rankings]) for name in COLUMNS}
    before = np.cumsum([0, *(len(ranking.positives) for ranking in rankings[:-1])])
    columns["category"] += np.repeat(before, [len(ranking.score) for ranking in rankings]).astype(np.int16)
    return Ranking(clips, np.concatenate([ranking.positives for ranking in rankings]), **columns)
