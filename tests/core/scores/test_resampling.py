"""Intervals over clips and the paired test: seeded, honest about what is equal and what is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.datasets.labels import A2D
from stages.core.scores import confusion, resampling
from stages.core.scores.confusion import Confusions
from stages.core.scores.resampling import Parameters

DRAWS = Parameters(resamples=200, seed=3)


@dataclass(frozen=True)
class Mean:
    """The simplest evidence: a number a clip, pooled by its mean."""

    clips: Sequence[str]
    numbers: np.ndarray

    def measure(self, weights: np.ndarray) -> dict[str, float]:
        return {"mean": float(weights @ self.numbers / weights.sum())}

    def joined(self, other: Self) -> Self:
        return type(self)([*self.clips, *other.clips], np.concatenate([self.numbers, other.numbers]))


def mean(*numbers: float) -> Mean:
    return Mean([f"clip{position}" for position in range(len(numbers))], np.array(numbers, float))


def clips(count: int, *, seed: int = 0, better: bool = False) -> Confusions:
    """Each clip shows 400 pixels of background and 100 of 17, found with a skill of its own (``better``: all)."""
    found = np.full(count, 100) if better else np.random.default_rng(seed).integers(0, 100, count)
    matrices = np.zeros((count, A2D.ids, A2D.ids), np.int64)
    matrices[:, 0, 0], matrices[:, 17, 17], matrices[:, 17, 0] = 400, found, 100 - found
    return Confusions([str(clip) for clip in range(count)], {"joint": matrices}, A2D)


def joint(evidence: Confusions, parameters: Parameters = DRAWS) -> tuple[float, float]:
    return resampling.intervals(evidence, parameters)["joint/mean_iou"]


def test_the_interval_is_the_same_for_the_same_seed_and_holds_the_score() -> None:
    evidence = clips(12)
    low, high = joint(evidence)
    assert (low, high) == joint(evidence) != joint(evidence, Parameters(resamples=200, seed=4))
    assert low < resampling.values(evidence)["joint/mean_iou"] < high


def test_the_interval_of_a_mean_is_the_one_that_theory_gives() -> None:
    """Mean of 400 draws of deviation 1: 1.96 / 20 to each side."""
    numbers = np.random.default_rng(0).normal(size=400)
    low, high = resampling.intervals(mean(*numbers), Parameters(resamples=2000, seed=0))["mean"]
    side = 1.96 * numbers.std() / 20
    assert (low, high) == pytest.approx((numbers.mean() - side, numbers.mean() + side), abs=0.01)


def test_more_clips_give_a_narrower_interval() -> None:
    (low, high), (low_of_many, high_of_many) = joint(clips(5)), joint(clips(80))
    assert high_of_many - low_of_many < (high - low) / 2


def test_clips_that_are_all_alike_have_no_interval() -> None:
    assert joint(clips(6, better=True)) == (100, 100)


def test_every_score_has_its_interval() -> None:
    found = resampling.summary(clips(6), DRAWS)
    for kind in ("actor", "action", "joint"):
        for figure in confusion.FIGURES:
            name = f"{kind}/{figure}"
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_a_draw_without_any_clip_of_a_class_does_not_spoil_the_interval() -> None:
    """Drawn with replacement, clip 0 is missing in about a third of the draws: then its score is not defined."""

    class First(Mean):
        def measure(self, weights: np.ndarray) -> dict[str, float]:
            return {"mean": float(self.numbers[0]) if weights[0] else float("nan")}

    assert resampling.intervals(First(["a", "b"], np.array([7.0, 1.0])), DRAWS)["mean"] == (7, 7)


# Two methods


def test_a_method_against_itself_differs_by_nothing_and_p_is_1() -> None:
    found = resampling.paired(clips(8), clips(8), DRAWS)["joint/mean_iou"]
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 100))
def test_a_method_that_is_better_on_every_clip_is_better_in_the_whole_interval(seed: int) -> None:
    found = resampling.paired(clips(8, better=True), clips(8, seed=seed), DRAWS)["joint/mean_iou"]
    assert 0 < found.low <= found.difference <= found.high
    assert found.p < 0.05


def test_p_is_the_share_of_ways_to_trade_the_clips_that_differ_as_much() -> None:
    """Three clips, each 1 better: of 8 ways to trade, 2 (none and all) differ by 1 or more; p is near 2 / 8."""
    found = resampling.paired(mean(1, 1, 1), mean(0, 0, 0), Parameters(resamples=4000, seed=0))["mean"]
    assert found.difference == 1
    assert found.p == pytest.approx(0.25, abs=0.03)


def test_methods_that_differ_by_chance_have_ps_that_are_spread_evenly() -> None:
    random = np.random.default_rng(1)
    draws = Parameters(resamples=100, seed=0)
    ps = [
        resampling.paired(mean(*random.normal(size=20)), mean(*random.normal(size=20)), draws)["mean"].p
        for _ in range(100)
    ]
    assert 0.35 < float(np.mean(ps)) < 0.65 and float(np.mean(np.array(ps) < 0.1)) < 0.25


def test_the_paired_interval_is_narrower_than_that_of_methods_on_different_clips() -> None:
    """Clips differ by 50 and methods by 1: what clips have in common cancels out."""
    hard = np.random.default_rng(2).uniform(0, 50, 30)
    found = resampling.paired(mean(*(hard + 1)), mean(*hard), DRAWS)["mean"]
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_other_clips_can_not_be_paired() -> None:
    with pytest.raises(ValueError, match="other clips"):
        resampling.paired(mean(1, 2), Mean(["clip1", "clip0"], np.ones(2)), DRAWS)


@settings(deadline=None, max_examples=20)
@given(weights=st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_a_weight_of_2_is_the_clip_twice(weights: list[int]) -> None:
    evidence = clips(4)
    repeated = evidence.only(np.repeat(evidence.clips, weights).tolist())
    assert evidence.measure(np.array(weights, float)) == pytest.approx(resampling.values(repeated), nan_ok=True)


def test_no_draw_at_all_is_an_error_before_anything_is_scored() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Parameters(resamples=0, seed=0)
