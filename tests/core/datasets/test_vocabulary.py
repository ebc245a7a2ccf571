"""Queries of a fixed vocabulary, which of them a video is asked, the label map of their responses, clips of a video."""

import numpy as np
import pytest

from stages.core.batches.windows import clip_numbers, window_numbers
from stages.core.datasets.labels import A2D, JHMDB
from stages.core.datasets.vocabulary import KINDS, queries
from stages.core.inference.fixed_vocabulary import label_map, selected
from stages.core.scores import maps


def scores(**above: float) -> np.ndarray:
    """Scores (43,) of A2D's pairs: 0.1 but for those given as id17=0.9."""
    found = {f"id{pair}": 0.1 for pair in A2D.valid_ids[1:]}
    assert above.keys() <= found.keys()
    return np.array([*(found | above).values()], np.float32)


# Queries


def test_pairs_are_asked_about_as_the_paper_words_them() -> None:
    asked = queries(A2D, "joint")
    assert tuple(asked) == A2D.valid_ids[1:] and len(set(asked.values())) == 43
    assert [asked[pair] for pair in (18, 76, 29)] == ["adult walking", "dog rolling", "baby none"]


def test_actors_and_actions_are_asked_about_by_name() -> None:
    assert queries(A2D, "actor") == {1: "adult", 2: "baby", 3: "ball", 4: "bird", 5: "car", 6: "cat", 7: "dog"}
    asked = queries(A2D, "action")
    assert (list(asked), asked[1], asked[7], asked[9]) == ([*range(1, 10)], "climbing", "running", "none")


def test_names_of_several_words_are_asked_about_as_words() -> None:
    assert queries(JHMDB, "action")[1] == "brush hair"
    assert queries(JHMDB, "joint")[23] == "person brush hair"


def test_kinds_are_those_of_label_maps_and_another_is_an_error_that_names_them() -> None:
    assert set(KINDS) == set(maps.KINDS)
    with pytest.raises(ValueError, match="no queries of kind `pair`; there are actor, action, joint"):
        queries(A2D, "pair")


# Selection


def test_pairs_above_the_threshold_are_asked_about_and_what_they_are_made_of_once() -> None:
    chosen = selected(scores(id78=0.6, id17=0.9, id18=0.51), A2D)
    assert chosen == {"actor": [1, 7], "action": [7, 8], "joint": [17, 18, 78]}
    assert all(type(label) is int for ids in chosen.values() for label in ids)


def test_a_pair_at_the_threshold_is_not_above_it() -> None:
    assert selected(scores(id11=0.5, id79=0.75), A2D)["joint"] == [79]
    assert selected(scores(id11=0.5, id79=0.75), A2D, threshold=0.4)["joint"] == [11, 79]


def test_where_no_pair_is_above_the_threshold_the_best_is_asked_about() -> None:
    assert selected(scores(id44=0.3), A2D) == {"actor": [4], "action": [4], "joint": [44]}
    assert selected(scores(id79=0.3), A2D)["joint"] == [79]


def test_what_is_selected_can_be_asked_about() -> None:
    everything = selected(np.ones(43), A2D)
    assert everything == {kind: list(queries(A2D, kind)) for kind in KINDS}


# Label maps


def test_the_highest_response_labels_the_pixel() -> None:
    responses = {
        78: np.array([[2.0, 0.5, -1.0], [0.2, -0.1, 3.0]], np.float32),
        17: np.array([[1.0, 0.7, -2.0], [-5.0, 0.1, 2.9]], np.float32),
    }
    found = label_map(responses, shape=(2, 3))
    assert found.dtype == np.uint8 and found.tolist() == [[78, 17, 0], [78, 17, 78]]


def test_a_pixel_that_no_query_claims_is_background_and_zero_claims_nothing() -> None:
    assert label_map({11: np.array([[0.0, -0.1, 1e-6]], np.float32)}, shape=(1, 3)).tolist() == [[0, 0, 11]]


def test_where_nothing_is_asked_all_is_background() -> None:
    found = label_map({}, shape=(2, 3))
    assert found.dtype == np.uint8 and found.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_responses_are_left_as_they_are() -> None:
    responses = {label: np.full((1, 2), label, np.float32) for label in (11, 12)}
    label_map(responses, shape=(1, 2))
    assert [response[0].tolist() for response in responses.values()] == [[11, 11], [12, 12]]


def test_of_equal_responses_the_lower_id_is_taken_whatever_their_order() -> None:
    same = np.ones((1, 1), np.float32)
    for responses in ({34: same, 12: same}, {12: same, 34: same}):
        assert label_map(responses, shape=(1, 1)).item() == 12


def test_the_label_map_of_a_large_frame_keeps_every_id() -> None:
    ids = A2D.valid_ids[1:]
    responses = {label: np.full((1, len(ids)), -1, np.float32) for label in ids}
    for column, label in enumerate(ids):
        responses[label][0, column] = 1
    assert label_map(responses, shape=(1, len(ids)))[0].tolist() == list(ids)


# Clips of a video


def test_clips_lie_end_to_end() -> None:
    assert window_numbers(96, length=32) == [[*range(32)], [*range(32, 64)], [*range(64, 96)]]


def test_the_last_clip_is_moved_back_to_end_with_the_video() -> None:
    assert window_numbers(10, length=4) == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert window_numbers(33, length=32) == [[*range(32)], [*range(1, 33)]]


def test_a_video_shorter_than_a_clip_starts_again_behind_its_end() -> None:
    assert window_numbers(3, length=8) == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert window_numbers(1, length=3) == [[0, 0, 0]]
    assert clip_numbers(0, length=8, frames=3) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_clip_can_begin_anywhere() -> None:
    assert clip_numbers(3, length=4, frames=7) == [3, 4, 5, 6]


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 15, 16, 17, 40])
def test_every_frame_of_a_video_is_in_a_clip_and_nothing_outside_it(frames: int) -> None:
    clips = window_numbers(frames, length=8)
    assert {number for clip in clips for number in clip} == set(range(frames))
    assert all(len(clip) == 8 for clip in clips) and len(clips) == -(-frames // 8)
