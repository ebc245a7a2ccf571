"""Actors by size: thirds of the ground truth's areas. Two of the papers claim to see small actors (Dang et al. 2018,
section 4.2; Gavrilyuk et al. 2018, section 5.2), none reports them apart.

Sizes are areas in pixels over all ground truth of the test set; a third holds as many actors as the others, ties go to
the smaller one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stages.core.datasets.labels import IGNORE

SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Thirds:
    """Areas up to ``low`` are small, those above ``high`` large."""

    low: float
    high: float

    def of(self, areas: np.ndarray) -> np.ndarray:
        """Position in ``SIZES`` of each area, of the same shape."""
        return (areas > self.low).astype(np.int64) + (areas > self.high)


def thirds(areas: Sequence[float] | np.ndarray) -> Thirds:
    """The bounds that part ``areas`` into three. Raises ``ValueError`` where there is none."""
    if len(areas) == 0:
        raise ValueError("no actor in the ground truth: there are no sizes")
    ordered = np.sort(np.asarray(areas, float))
    ranks = [max(0, int(np.ceil(len(ordered) * share / 3)) - 1) for share in (1, 2)]
    return Thirds(low=float(ordered[ranks[0]]), high=float(ordered[ranks[1]]))


def components(labels: np.ndarray) -> list[np.ndarray]:
    """Masks (H, W) bool of a label map's actors where nothing tells instances apart: connected pixels of one id."""
    masks = []
    for label in np.unique(labels):
        if label not in (0, IGNORE):
            count, parts = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8)
            masks += [parts == part for part in range(1, count)]
    return masks


def only(labels: np.ndarray, masks: Sequence[np.ndarray], sizes: np.ndarray, size: int) -> np.ndarray:
    """``labels`` (H, W) without the actors of other sizes: their pixels become ``IGNORE``, background stays.

    ``sizes`` (N,) are those of ``masks``. Where actors overlap the smaller one lies on top.
    """
    owner = np.full(labels.shape, size, np.int64)
    for position in np.argsort([-np.count_nonzero(mask) for mask in masks], kind="stable"):
        owner[masks[position]] = sizes[position]
    return np.where((owner == size) | (labels == 0), labels, np.uint8(IGNORE))
