"""Scores of label maps: hand-counted cases, what counts and what does not."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.core.datasets.labels import A2D, IGNORE, VALID_IDS
from stages.core.scores import confusion

LABELS = st.sampled_from(VALID_IDS)
MAPS = arrays.arrays(np.uint8, (3, 4, 5), elements=LABELS)


def joint(*pairs: tuple[int, int, int]) -> np.ndarray:
    """(80, 80) from (truth, predicted, pixels)."""
    matrix = np.zeros((80, 80), np.int64)
    for truth, predicted, pixels in pairs:
        matrix[truth, predicted] += pixels
    return matrix


def of_maps(truth: np.ndarray, predicted: np.ndarray) -> dict[str, confusion.Scores]:
    return confusion.all_scores(confusion.confusion(truth, predicted, classes=80), A2D)


HAND = joint((0, 0, 5), (0, 17, 1), (17, 17, 1), (17, 18, 1), (66, 66, 1), (66, 71, 1))
"""Ten pixels; 71 (dog-climbing) is a pair that can't occur."""


@pytest.mark.parametrize(
    ("kind", "global_accuracy", "class_accuracy", "mean_iou"),
    [
        # background 5 of 6; 17 1 of 2, called so 2 times; 66 1 of 2, called so once
        ("joint", 70, 100 * (5 / 6 + 1 / 2 + 1 / 2) / 3, 100 * (5 / 6 + 1 / 3 + 1 / 2) / 3),
        # adult 2 of 2, called so 3 times; cat 1 of 2
        ("actor", 80, 100 * (5 / 6 + 1 + 1 / 2) / 3, 100 * (5 / 6 + 2 / 3 + 1 / 2) / 3),
        # running 1 of 2, called so twice; rolling 1 of 2
        ("action", 70, 100 * (5 / 6 + 1 / 2 + 1 / 2) / 3, 100 * (5 / 6 + 1 / 3 + 1 / 2) / 3),
    ],
)
def test_ten_pixels_counted_by_hand(kind: str, global_accuracy: float, class_accuracy: float, mean_iou: float) -> None:
    scores = confusion.all_scores(HAND, A2D)[kind]
    assert scores.global_accuracy == pytest.approx(global_accuracy)
    assert scores.class_accuracy == pytest.approx(class_accuracy)
    assert scores.mean_iou == pytest.approx(mean_iou)
    assert scores.classes == 3


def test_scores_by_class_are_those_of_the_hand_count() -> None:
    scores = confusion.all_scores(HAND, A2D)["joint"]
    assert scores.iou[[0, 17, 66]] == pytest.approx([100 * 5 / 6, 100 / 3, 50])
    assert np.isnan(scores.iou[18]) and np.isnan(scores.accuracy[18])


def test_the_right_action_of_the_wrong_actor_is_right_for_the_action_only() -> None:
    found = confusion.all_scores(joint((17, 77, 10)), A2D)
    assert [found[kind].global_accuracy for kind in ("actor", "action", "joint")] == [0, 100, 0]


def test_an_invalid_pair_predicted_loses_recall_and_is_nobody_s_false_positive() -> None:
    clean, spoilt = joint((0, 0, 8), (66, 66, 4)), joint((0, 0, 6), (0, 71, 2), (66, 66, 4))
    iou = [confusion.all_scores(matrix, A2D)["joint"].iou for matrix in (clean, spoilt)]
    assert iou[1][0] == pytest.approx(75) and iou[1][66] == iou[0][66] == 100


def test_classes_without_ground_truth_do_not_count_even_if_predicted() -> None:
    scores = confusion.all_scores(joint((0, 0, 6), (0, 44, 2)), A2D)["joint"]
    assert scores.classes == 1 and scores.mean_iou == pytest.approx(75)


def test_background_counts_as_a_class() -> None:
    scores = confusion.all_scores(joint((0, 0, 9), (17, 0, 1)), A2D)["joint"]
    assert scores.classes == 2 and scores.class_accuracy == 50 and scores.mean_iou == pytest.approx(45)


def test_none_counts_as_an_action() -> None:
    scores = confusion.all_scores(joint((0, 0, 9), (19, 0, 1)), A2D)["action"]
    assert scores.classes == 2 and scores.class_accuracy == 50


def test_all_background_predicted_as_such_is_perfect() -> None:
    found = of_maps(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8))
    assert all(scores.summary() == dict.fromkeys(scores.summary(), 100.0) for scores in found.values())


def test_pixels_without_a_label_do_not_count() -> None:
    truth = np.array([[0, 17, IGNORE, IGNORE]], np.uint8)
    assert confusion.confusion(truth, np.array([[0, 17, 66, 0]], np.uint8), classes=80).sum() == 2
    assert of_maps(truth, np.array([[0, 17, 66, 0]], np.uint8))["joint"].mean_iou == 100


def test_nothing_labelled_scores_nothing_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = of_maps(np.full((2, 3), IGNORE, np.uint8), np.zeros((2, 3), np.uint8))
    assert all(scores.classes == 0 and math.isnan(scores.mean_iou) for scores in found.values())


def test_truth_is_in_rows_and_prediction_in_columns() -> None:
    matrix = confusion.confusion(np.array([[3, 3, 1]], np.uint8), np.array([[2, 3, 1]], np.uint8), classes=4)
    assert matrix.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]


def test_maps_of_different_sizes_and_unknown_ids_are_errors() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) for a truth of \(4, 6\)"):
        confusion.confusion(np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8), classes=80)
    with pytest.raises(ValueError, match="predicted id 255"):
        confusion.confusion(np.zeros((2, 3), np.uint8), np.full((2, 3), IGNORE, np.uint8), classes=80)


@settings(deadline=None)
@given(truth=MAPS)
def test_a_perfect_prediction_scores_100_in_everything(truth: np.ndarray) -> None:
    for scores in of_maps(truth, truth).values():
        assert scores.summary() == pytest.approx({"global_accuracy": 100, "class_accuracy": 100, "mean_iou": 100})


@settings(deadline=None)
@given(truth=MAPS, predicted=MAPS, order=st.permutations(range(3)))
def test_the_order_of_frames_changes_nothing(truth: np.ndarray, predicted: np.ndarray, order: list[int]) -> None:
    first, second = of_maps(truth, predicted), of_maps(truth[order], predicted[order])
    assert all(first[kind].summary() == second[kind].summary() for kind in first)


@settings(deadline=None)
@given(truth=MAPS, predicted=MAPS)
def test_summed_matrices_of_frames_are_the_matrix_of_all(truth: np.ndarray, predicted: np.ndarray) -> None:
    parts = sum(confusion.confusion(t, p, classes=80) for t, p in zip(truth, predicted, strict=True))
    assert np.array_equal(parts, confusion.confusion(truth, predicted, classes=80))


@settings(deadline=None)
@given(truth=MAPS, predicted=arrays.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 79)))
def test_no_marginal_s_global_accuracy_is_below_the_joint_one_s(truth: np.ndarray, predicted: np.ndarray) -> None:
    found = of_maps(truth, predicted)
    assert found["actor"].global_accuracy >= found["joint"].global_accuracy
    assert found["action"].global_accuracy >= found["joint"].global_accuracy


@settings(deadline=None)
@given(truth=MAPS, predicted=MAPS)
def test_marginals_are_the_matrices_of_the_parts(truth: np.ndarray, predicted: np.ndarray) -> None:
    actor, action = confusion.marginals(confusion.confusion(truth, predicted, classes=80), A2D)
    assert np.array_equal(actor, confusion.confusion(truth // 10, predicted // 10, classes=8))
    assert np.array_equal(action, confusion.confusion(truth % 10, predicted % 10, classes=10))


# The oracle


def test_the_oracle_knows_the_actor_and_always_says_its_most_frequent_action() -> None:
    matrix = joint((0, 17, 4), (17, 0, 3), (18, 18, 1), (66, 66, 2))
    frequent = confusion.most_frequent_action(matrix, A2D)
    assert (frequent[0], frequent[1], frequent[6]) == (0, 17, 66)
    assert np.array_equal(confusion.oracle(matrix, frequent), joint((0, 0, 4), (17, 17, 3), (18, 17, 1), (66, 66, 2)))
    scores = confusion.all_scores(confusion.oracle(matrix, frequent), A2D)
    assert scores["actor"].mean_iou == 100
    assert scores["joint"].mean_iou == pytest.approx(100 * (1 + 3 / 4 + 0 + 1) / 4)
