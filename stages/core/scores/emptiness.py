"""How empty masks are where a sentence means nobody, in percent, by kind of question
(``stages.core.inference.questions``).

    share    of the frame that a mask covers, the mean over questions
    empty    of masks those that cover less than a hundredth of the frame

Of sentences about an actor in the frame (`asked`) they are what the others are compared with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from stages.core.scores import resampling

SMALL = 0.01
"""Share of the frame below which a mask counts as empty."""


@dataclass(frozen=True)
class EmptinessEvidence:
    """Masks of one kind of question: by clip their number, the sum of their shares and how many are empty."""

    clips: tuple[str, ...]
    sums: np.ndarray  # (clips, 3) float64

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``share`` and ``empty`` in percent, clip i counted ``weights[i]`` times."""
        count, share, empty = weights @ self.sums
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"share": float(100 * share / count), "empty": float(100 * empty / count)}

    def joined(self, other: Self) -> Self:
        """The clips of both, ``other``'s after its own."""
        return type(self)((*self.clips, *other.clips), np.concatenate([self.sums, other.sums]))


def run(answers: Mapping[str, Sequence[Mapping[str, Any]]], parameters: resampling.Parameters) -> dict[str, Any]:
    """Video -> rows (kind, pixels, of) to kind -> both scores with intervals over clips, and the number of masks."""
    shares: dict[str, dict[str, list[float]]] = {}  # by kind and video
    for video, rows in answers.items():
        for row in rows:
            shares.setdefault(row["kind"], {}).setdefault(video, []).append(row["pixels"] / row["of"])
    found = {}
    for kind, of_kind in sorted(shares.items()):
        evidence = _evidence(of_kind)
        found[kind] = {**resampling.summary(evidence, parameters), "samples": int(evidence.sums[:, 0].sum())}
    return found


def _evidence(shares: Mapping[str, Sequence[float]]) -> EmptinessEvidence:
    sums = [(len(one), sum(one), sum(share < SMALL for share in one)) for one in shares.values()]
    return EmptinessEvidence(tuple(shares), np.array(sums, float))
