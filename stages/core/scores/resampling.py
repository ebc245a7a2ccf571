"""How sure a score is: intervals over clips, and a paired test of two methods on the same clips.

A score is measured on *evidence*: what is known of each clip, pooled with a weight a clip. Drawing clips with
replacement (Efron and Tibshirani 1993) is a choice of weights, and so is trading the clips of two methods.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np
from pydantic import Field

from stages.core.params import Section

Values = dict[str, float]
"""Name of a score -> its value, NaN where it is not defined."""


class Parameters(Section):
    """Section ``evaluate`` of params.yaml: the draws of clips, for intervals and tests alike."""

    resamples: int = Field(ge=1)
    seed: int


class Evidence(Protocol):
    """What was seen of each clip; clips are pooled before anything is measured."""

    @property
    def clips(self) -> Sequence[str]:
        """Names of the clips, one a weight."""
        ...

    def measure(self, weights: np.ndarray) -> Values:
        """Scores of the pooled clips, clip i counted ``weights[i]`` times: (clips,) float, not negative."""
        ...

    def joined(self, other: Self) -> Self:
        """Evidence that holds the clips of both, ``other``'s after its own (so a name may stand in it twice)."""
        ...


@dataclass(frozen=True)
class Difference:
    """First minus second of a score on the same clips; ``p`` of no difference, two-sided."""

    difference: float
    low: float
    high: float
    p: float


def values(evidence: Evidence) -> Values:
    """Scores of all clips, each counted once."""
    return evidence.measure(np.ones(len(evidence.clips)))


def intervals(evidence: Evidence, parameters: Parameters) -> dict[str, tuple[float, float]]:
    """95 % interval of every score over clips: percentiles of ``resamples`` draws with replacement.

    A draw in which a score is not defined (no clip of a class) is left out of that score's percentiles.
    """
    count = len(evidence.clips)
    drawn = [evidence.measure(weights) for weights in _draws(count, parameters)]
    return {name: _percentiles([draw[name] for draw in drawn]) for name in drawn[0]}


def paired(first: Evidence, second: Evidence, parameters: Parameters) -> dict[str, Difference]:
    """Every score's difference on the same clips: its 95 % interval by the paired bootstrap, p by permutation.

    A permutation trades the two methods' results of each clip or leaves them, by a coin (Noreen 1989); p is the share
    of permutations, the observed one included, whose difference is at least as large. Raises ``ValueError`` where the
    clips are not the same in the same order.
    """
    if list(first.clips) != list(second.clips):
        raise ValueError("the two predictions hold other clips: only the same clips, in the same order, can be paired")
    count = len(first.clips)
    pooled = first.joined(second)
    nothing = np.zeros(count)

    def difference(of_first: np.ndarray, of_second: np.ndarray) -> Values:
        """``of_first`` and ``of_second`` are weights over the clips of both."""
        one, other = pooled.measure(of_first), pooled.measure(of_second)
        return {name: one[name] - other[name] for name in one}

    def of(weights: np.ndarray) -> Values:
        return difference(np.concatenate([weights, nothing]), np.concatenate([nothing, weights]))

    observed = of(np.ones(count))
    drawn = [of(weights) for weights in _draws(count, parameters)]
    random = np.random.default_rng((parameters.seed, 1))
    traded = []
    for _ in range(parameters.resamples):
        kept = random.integers(0, 2, count).astype(float)
        traded.append(difference(np.concatenate([kept, 1 - kept]), np.concatenate([1 - kept, kept])))
    found = {}
    for name, value in observed.items():
        low, high = _percentiles([draw[name] for draw in drawn])
        others = np.array([permutation[name] for permutation in traded])
        # A tolerance, so that sums of the same numbers in another order count as equal.
        as_large = np.sum(np.abs(others) >= abs(value) - 1e-9)
        p = float(as_large + 1) / (parameters.resamples + 1) if np.isfinite(value) else float("nan")
        found[name] = Difference(difference=value, low=low, high=high, p=p)
    return found


def summary(evidence: Evidence, parameters: Parameters, *, against: Evidence | None = None) -> dict[str, Any]:
    """``score -> value``, ``score_low`` and ``score_high``; with another method's evidence also ``against``."""
    result: dict[str, Any] = {}
    bounds = intervals(evidence, parameters)
    for name, value in values(evidence).items():
        result |= {name: value, f"{name}_low": bounds[name][0], f"{name}_high": bounds[name][1]}
    if against is not None:
        result["against"] = {name: asdict(found) for name, found in paired(evidence, against, parameters).items()}
    return result


def rounded(value: Any) -> Any:
    """Floats to four decimals, since people read them too; what is not defined (NaN) to None, which JSON knows."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [rounded(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


def _draws(count: int, parameters: Parameters) -> list[np.ndarray]:
    random = np.random.default_rng(parameters.seed)
    return [
        np.bincount(random.integers(0, count, count), minlength=count).astype(float)
        for _ in range(parameters.resamples)
    ]


def _percentiles(drawn: Sequence[float]) -> tuple[float, float]:
    finite = np.array([value for value in drawn if np.isfinite(value)])
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
