"""Consistency: actors that carry a single action, counted by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.datasets.labels import A2D, LabelSpace, label_space
from stages.core.scores import consistency, resampling


@dataclass(frozen=True)
class Maps:
    """Truth and prediction of frames 0, 1, ... of a few videos: their masks and their joint maps."""

    actors_of: Mapping[str, list[list[np.ndarray]]]
    joint: Mapping[str, list[np.ndarray | None]]
    label_space: LabelSpace = A2D

    @property
    def videos(self) -> list[str]:
        return list(self.actors_of)

    def annotated(self, video: str) -> list[int]:
        return list(range(len(self.actors_of[video])))

    def labels(self, video: str, frame: int) -> np.ndarray:
        raise AssertionError("not asked for")

    def actors(self, video: str, frame: int) -> list[np.ndarray]:
        return self.actors_of[video][frame]

    def maps(self, video: str, frame: int) -> dict[str, np.ndarray] | None:
        joint = self.joint[video][frame]
        return None if joint is None else {"joint": joint, "action": np.full_like(joint, 5)}


def strip(*columns: int) -> np.ndarray:
    """A mask (1, 8) of some columns."""
    mask = np.zeros((1, 8), bool)
    mask[0, list(columns)] = True
    return mask


# Two actors in `a`: pixels 17 17 17 16 (three run, one rolls) and 68 (one walks, the rest is background); in the second
# frame one that is all background. One in `b`, whose two actors' ids do the same.
PREDICTED = {"a": [[[17, 17, 17, 16, 0, 68, 0, 0]], [[0] * 8]], "b": [[[17, 67, 17, 0, 0, 0, 0, 0]]]}
TRUE = {"a": [[strip(0, 1, 2, 3), strip(5, 6, 7)], [strip(0, 1)]], "b": [[strip(0, 1, 2)]]}
JOINT = {video: [np.array(rows, np.uint8) for rows in frames] for video, frames in PREDICTED.items()}
EXAMPLE = Maps(TRUE, JOINT)


def test_actors_are_counted_as_by_hand() -> None:
    evidence = consistency.compare(EXAMPLE, EXAMPLE)
    assert evidence.clips == ["a", "b"]
    np.testing.assert_allclose(evidence.sums, [[3, 2, 1, 0.75 + 1], [1, 1, 1, 1]])
    found = resampling.values(evidence)
    assert found == pytest.approx({"found": 75.0, "single": 200 / 3, "purity": 100 * 2.75 / 3})


def test_a_clip_that_is_drawn_twice_counts_twice() -> None:
    found = consistency.compare(EXAMPLE, EXAMPLE).measure(np.array([2.0, 0.0]))
    assert found == pytest.approx({"found": 100 * 4 / 6, "single": 50.0, "purity": 87.5})


def test_the_action_head_s_own_map_can_be_looked_at() -> None:
    found = resampling.values(consistency.compare(EXAMPLE, EXAMPLE, kind="action"))
    assert found == {"found": 100.0, "single": 100.0, "purity": 100.0}


def test_a_pixel_of_two_actors_is_the_smaller_one_s() -> None:
    actions = np.array([[7, 7, 7, 7, 6, 6, 0, 0]])
    large, small = strip(0, 1, 2, 3, 4, 5), strip(4, 5)
    np.testing.assert_allclose(consistency.count([large, small], actions), [2, 2, 2, 2])
    np.testing.assert_allclose(consistency.count([large], actions), [1, 1, 0, 4 / 6])


def test_where_nothing_is_found_only_that_is_defined() -> None:
    nothing = Maps({"a": TRUE["a"]}, {"a": [np.zeros((1, 8), np.uint8)] * 2})
    found = resampling.values(consistency.compare(nothing, nothing))
    assert found["found"] == 0 and np.isnan(found["single"]) and np.isnan(found["purity"])
    empty = Maps({"a": [[]]}, {"a": [np.zeros((1, 8), np.uint8)]})
    assert all(np.isnan(value) for value in resampling.values(consistency.compare(empty, empty)).values())


@given(st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_purity_is_full_exactly_where_the_action_is_single(actions: list[int]) -> None:
    actors, found, single, purity = consistency.count([strip(*range(8))], np.array([actions]))
    kinds = set(actions) - {0}
    assert (actors, found, single) == (1, bool(kinds), len(kinds) == 1)
    assert (purity == 1) == (len(kinds) == 1) and purity <= found


def test_two_methods_are_compared_clip_by_clip() -> None:
    better = Maps(TRUE, {**JOINT, "a": [np.array([[17, 17, 17, 17, 0, 68, 0, 0]], np.uint8), JOINT["a"][1]]})
    parameters = resampling.Parameters(resamples=20, seed=0)
    against = consistency.compare(EXAMPLE, EXAMPLE)
    result = resampling.summary(consistency.compare(EXAMPLE, better), parameters, against=against)
    assert result["against"]["single"]["difference"] == pytest.approx(100 / 3)
    assert result["against"]["found"]["difference"] == 0 and result["single"] == 100


def test_a_frame_without_prediction_is_an_error_or_left_out() -> None:
    missing = Maps(TRUE, {**JOINT, "b": [None]})
    with pytest.raises(ValueError, match="b, frame 1: no joint map was predicted"):
        consistency.compare(EXAMPLE, missing)
    assert consistency.compare(EXAMPLE, missing, count_missing=True).clips == ["a"]
    nothing = Maps(TRUE, {"a": [None, None], "b": [None]})
    with pytest.raises(ValueError, match="nothing can be scored"):
        consistency.compare(EXAMPLE, nothing, count_missing=True)
    with pytest.raises(ValueError, match="no actor map was predicted"):
        consistency.compare(EXAMPLE, EXAMPLE, kind="actor")


def test_multi_label_data_has_no_single_action() -> None:
    several = Maps(TRUE, JOINT, label_space=label_space("vidor"))
    with pytest.raises(ValueError, match="several things at once"):
        consistency.compare(several, several)
