"""Endpoint error and Fl-all, computed by hand, and pooled over frames and clips."""

import numpy as np
import pytest

from stages.core.scores import resampling
from stages.core.scores.flow import SPEEDS, FlowErrors, FlowEvidence, tally

NAN = float("nan")
#                  speed 5, error 4   10, error 3  40, error 1  100, error 4   60, error 4      unknown
TRUTH = np.array([[(3.0, 4.0), (6.0, 8.0), (24.0, 32.0), (60.0, 80.0), (36.0, 48.0), (NAN, 0.0)]])
ERROR = np.array([[(0.0, 4.0), (3.0, 0.0), (0.0, -1.0), (4.0, 0.0), (0.0, -4.0), (0.0, 0.0)]])
ESTIMATE = TRUTH + ERROR
STILL = np.zeros((1, 2, 2))


def _moving(u: float, v: float) -> np.ndarray:
    return np.broadcast_to([u, v], STILL.shape)


def _values(*frames: tuple[str, np.ndarray, np.ndarray]) -> dict[str, float]:
    errors = FlowErrors()
    for clip, truth, estimate in frames:
        errors.add(clip, truth, estimate)
    return resampling.values(errors.evidence())


def test_scores_are_those_computed_by_hand() -> None:
    values = _values(("clip", TRUTH, ESTIMATE))
    # Wrong: 4 of 5 (80 %) and 4 of 60 (6.7 %). Right: exactly 3 px; 1 px; 4 of 100 (4 %).
    assert values == pytest.approx({
        "all/endpoint_error": (4 + 3 + 1 + 4 + 4) / 5, "all/fl_all": 100 * 2 / 5,
        "under_10/endpoint_error": 4, "under_10/fl_all": 100,
        "10_to_40/endpoint_error": 2, "10_to_40/fl_all": 0,
        "over_40/endpoint_error": 4, "over_40/fl_all": 50,
    })  # fmt: skip


def test_an_endpoint_error_is_a_distance_in_both_axes() -> None:
    values = _values(("clip", STILL, _moving(3.0, -4.0)))
    assert values["all/endpoint_error"] == 5 and values["all/fl_all"] == 100


def test_pixels_whose_flow_is_not_known_do_not_count() -> None:
    truth = np.array([[(NAN, NAN), (1.0, 0.0), (0.0, NAN)]])
    estimate = np.array([[(99.0, 99.0), (1.0, 2.0), (NAN, NAN)]])
    assert tally(truth, estimate).tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_a_speed_that_nothing_has_is_not_a_number() -> None:
    values = _values(("clip", STILL, STILL))
    assert values["under_10/endpoint_error"] == 0
    assert all(np.isnan(values[f"{speed}/{figure}"]) for speed in SPEEDS[1:] for figure in ("endpoint_error", "fl_all"))


def test_frames_and_clips_are_pooled_by_pixels() -> None:
    errors = FlowErrors()
    errors.add("a", STILL, _moving(6.0, 0.0))  # 2 pixels, error 6
    errors.add("b", np.zeros((1, 4, 2)), np.full((1, 4, 2), 0.0))  # 4 pixels, error 0
    errors.add("a", STILL, STILL)  # 2 pixels, error 0
    evidence = errors.evidence()
    assert evidence.clips == ["a", "b"]
    assert errors.pixels == {"all": 8, "under_10": 8, "10_to_40": 0, "over_40": 0}
    # all: 12 / 8; a alone: 12 / 4; a twice and b once: 24 / 12
    for weights, expected in (([1, 1], 1.5), ([1, 0], 3.0), ([0, 1], 0.0), ([2, 1], 2.0)):
        assert evidence.measure(np.array(weights, float))["all/endpoint_error"] == expected


def test_memory_does_not_grow_with_frames() -> None:
    errors = FlowErrors()
    for _ in range(50):
        errors.add("a", TRUTH, ESTIMATE)
    evidence = errors.evidence()
    assert evidence.tallies.shape == (1, 3, 3)
    np.testing.assert_allclose(evidence.tallies[0], 50 * tally(TRUTH, ESTIMATE))


def test_intervals_and_paired_tests_run_on_the_evidence() -> None:
    better, worse = FlowErrors(), FlowErrors()
    for clip in range(12):
        better.add(f"{clip}", STILL, _moving(1.0 + 0.01 * clip, 0.0))
        worse.add(f"{clip}", STILL, _moving(2.0 + 0.01 * clip, 0.0))
    summary = resampling.summary(
        better.evidence(), resampling.Parameters(resamples=200, seed=0), against=worse.evidence()
    )
    assert summary["all/endpoint_error_low"] < summary["all/endpoint_error"] < summary["all/endpoint_error_high"]
    assert summary["against"]["all/endpoint_error"]["difference"] == pytest.approx(-1)
    assert summary["against"]["all/endpoint_error"]["p"] < 0.05


def test_evidence_joins_the_clips_of_both() -> None:
    one, two = (FlowEvidence([name], np.full((1, 3, 3), value)) for name, value in (("a", 1.0), ("b", 2.0)))
    joined = one.joined(two)
    assert joined.clips == ["a", "b"] and joined.tallies[:, 0, 0].tolist() == [1, 2]


def test_what_cannot_be_compared_is_refused_with_its_clip() -> None:
    errors = FlowErrors()
    with pytest.raises(ValueError, match=r"cat: estimated flow of \(2, 2\) for a true one of \(1, 2\)"):
        errors.add("cat", STILL, np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="cat: the estimated flow is not finite at 1 pixels"):
        errors.add("cat", STILL, np.array([[(0.0, NAN), (0.0, 0.0)]]))
    with pytest.raises(ValueError, match="nothing to score"):
        errors.evidence()
