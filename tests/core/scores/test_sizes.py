"""Actors by size: thirds of their areas, and what is left of a label map for one size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.datasets.labels import IGNORE
from stages.core.scores import sizes


def test_thirds_part_nine_areas_into_three_and_three_and_three() -> None:
    found = sizes.thirds([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert (found.low, found.high) == (3, 6)
    assert found.of(np.array([1, 3, 4, 6, 7, 9])).tolist() == [0, 0, 1, 1, 2, 2]


def test_areas_that_tie_are_all_of_the_smaller_size() -> None:
    assert sizes.thirds([5, 5, 5, 5]).of(np.array([5, 5])).tolist() == [0, 0]


@given(areas=st.lists(st.integers(1, 50), min_size=1, max_size=40, unique=True))
def test_of_areas_that_differ_no_third_holds_two_more_than_another(areas: list[int]) -> None:
    counts = np.bincount(sizes.thirds(areas).of(np.array(areas)), minlength=3)
    assert counts.max() - counts.min() <= 1


def test_without_an_actor_there_are_no_sizes() -> None:
    with pytest.raises(ValueError, match="no actor"):
        sizes.thirds([])


def test_actors_of_a_label_map_are_connected_pixels_of_one_id() -> None:
    """Two that touch at a corner are one; background and void are none."""
    labels = np.array([[17, 0, 17, 66], [0, 17, IGNORE, 66]], np.uint8)
    found = {tuple(map(tuple, np.argwhere(mask))) for mask in sizes.components(labels)}
    assert found == {((0, 0), (0, 2), (1, 1)), ((0, 3), (1, 3))}


def test_for_one_size_the_pixels_of_the_others_are_left_out_and_background_is_not() -> None:
    """A ball (1 pixel) lies on an adult (5 pixels) and keeps its own pixel."""
    labels = np.array([[17, 17, 36, 17, 17, 0]], np.uint8)
    adult, ball = np.array([[1, 1, 1, 1, 1, 0]], bool), np.array([[0, 0, 1, 0, 0, 0]], bool)
    small = sizes.only(labels, [adult, ball], np.array([2, 0]), 0)
    large = sizes.only(labels, [adult, ball], np.array([2, 0]), 2)
    assert small.tolist() == [[IGNORE, IGNORE, 36, IGNORE, IGNORE, 0]]
    assert large.tolist() == [[17, 17, IGNORE, 17, 17, 0]]
