"""How wrong an estimated optical flow is: endpoint error and Fl-all, over all pixels and by the true speed.

The endpoint error is the distance in pixels between the ends of the true and the estimated vector (Baker et al. 2011).
Fl-all is the share in percent of pixels whose error is over 3 pixels and over 5 % of the true speed (KITTI 2015,
Menze and Geiger 2015). Pixels whose true flow is not known (NaN) do not count.

What is kept of a clip is one small table of sums, so that memory does not grow with its frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from stages.core.scores.resampling import Values

SPEEDS = ("under_10", "10_to_40", "over_40")
"""Of the true flow, in pixels; both ends belong to the middle one (the ranges of MPI Sintel, Butler et al. 2012)."""
WRONG_PIXELS, WRONG_SHARE = 3.0, 0.05
"""An error over both is one that Fl-all counts; the second is a share of the true speed."""


def tally(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(3, 3) float64 sums of one frame: by speed (rows), pixels, endpoint error and pixels wrong for Fl-all.

    Both are (H, W, 2) pixels. Raises ``ValueError`` for different shapes, and where the truth is known and the
    estimate is not finite.
    """
    if truth.shape != estimate.shape:
        raise ValueError(
            f"estimated flow of {estimate.shape[:2]} for a true one of {truth.shape[:2]}; resize and scale its vectors"
        )
    known = np.isfinite(truth).all(-1)
    true, found = truth[known].astype(np.float64), estimate[known].astype(np.float64)
    if missing := int((~np.isfinite(found)).any(-1).sum()):
        raise ValueError(f"the estimated flow is not finite at {missing} pixels whose flow is known; estimate it there")
    speed = np.hypot(*true.T)
    error = np.hypot(*(found - true).T)
    wrong = (error > WRONG_PIXELS) & (error > WRONG_SHARE * speed)
    row = (speed >= 10).astype(np.int64) + (speed > 40)
    sums = [np.bincount(row, weights=values, minlength=3) for values in (np.ones_like(error), error, wrong)]
    return np.stack(sums, axis=1)


@dataclass(frozen=True)
class FlowEvidence:
    """What is known of each clip: ``tallies`` (clips, 3, 3), each the sum of its frames' ``tally``."""

    clips: Sequence[str]
    tallies: np.ndarray

    def measure(self, weights: np.ndarray) -> Values:
        """``speed/endpoint_error`` in pixels and ``speed/fl_all`` in percent, for all pixels and for each speed.

        Pixels of all clips are pooled; NaN where no pixel moves at that speed.
        """
        by_speed = np.tensordot(weights, self.tallies, axes=1)  # (3, 3)
        values = {}
        for name, (pixels, error, wrong) in zip(("all", *SPEEDS), [by_speed.sum(0), *by_speed], strict=True):
            values[f"{name}/endpoint_error"] = float(error / pixels) if pixels else float("nan")
            values[f"{name}/fl_all"] = float(100 * wrong / pixels) if pixels else float("nan")
        return values

    def joined(self, other: Self) -> Self:
        """The clips of both, ``other``'s after its own."""
        return type(self)([*self.clips, *other.clips], np.concatenate([self.tallies, other.tallies]))


class FlowErrors:
    """Sums errors frame by frame, clip by clip."""

    def __init__(self) -> None:
        self._tallies: dict[str, np.ndarray] = {}

    def add(self, clip: str, truth: np.ndarray, estimate: np.ndarray) -> None:
        """Add one frame of ``clip``; see ``tally``. Raises ``ValueError`` that names the clip."""
        try:
            sums = tally(truth, estimate)
        except ValueError as error:
            raise ValueError(f"{clip}: {error}") from error
        self._tallies[clip] = self._tallies.get(clip, np.zeros((3, 3))) + sums

    @property
    def pixels(self) -> Mapping[str, float]:
        """Pixels that count, by speed and in all."""
        counts = sum(self._tallies.values(), np.zeros((3, 3)))[:, 0]
        return {"all": float(counts.sum()), **dict(zip(SPEEDS, counts.tolist(), strict=True))}

    def evidence(self) -> FlowEvidence:
        """Of all frames that were added. Raises ``ValueError`` where there is none."""
        if not self._tallies:
            raise ValueError("no frame with true flow was added: there is nothing to score")
        return FlowEvidence(list(self._tallies), np.stack(list(self._tallies.values())))
