"""Mask AP and recall of regions, against values by hand."""

import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from stages.core.datasets.instances import UNTOLD, Frame, Instance
from stages.core.scores.regions import Found, measure

ACTORS = ("background", "adult", "cat")
FRAME = ("video", 0)
SIDE = 40


def rle(top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """A rectangle in a frame of 40 x 40."""
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    return coco.encode(mask)


SMALL, MEDIUM, LARGE = rle(0, 0, 4, 4), rle(0, 10, 10, 10), rle(12, 0, 20, 30)
TRUE = [Instance(1, SMALL), Instance(2, MEDIUM), Instance(1, LARGE)]


def found(*regions: tuple[dict[str, Any], float, int]) -> dict[Frame, Found]:
    masks, scores, actors = zip(*regions, strict=True) if regions else ((), (), ())
    return {FRAME: Found(masks, scores, actors)}


def of(*regions: tuple[dict[str, Any], float, int], truth: list[Instance] = TRUE) -> dict[str, Any]:
    return measure({FRAME: truth}, found(*regions), ACTORS)


def test_the_truth_found_scores_hundred_everywhere() -> None:
    result = of((SMALL, 0.9, 1), (MEDIUM, 0.8, 2), (LARGE, 0.7, 1))
    scores = {name: result[name] for name in ("ap", "ap50", "recall", "covered", "actor_ap", "actor_ap50")}
    assert scores == pytest.approx(dict.fromkeys(scores, 100.0))
    assert result["instances"] == 3 and result["regions_per_frame"] == 3
    assert result["by_actor"]["cat"] == pytest.approx({"ap": 100.0, "ap50": 100.0})


def test_a_region_that_overlaps_loosely_counts_at_the_low_overlaps_alone() -> None:
    """7 of 10 rows of the one actor: IoU .7, right at .50, .55, ..., .70: five of ten overlaps."""
    result = of((rle(0, 10, 7, 10), 0.9, 2), truth=[Instance(2, MEDIUM)])
    assert result["covered"] == 100 and result["ap50"] == pytest.approx(100)
    assert result["recall"] == pytest.approx(50) and result["ap"] == pytest.approx(50)


def test_a_wrong_region_of_a_higher_score_costs_precision_and_no_recall() -> None:
    """Ranked wrong, right: precision 1/2 at every recall up to 1 of the one actor."""
    result = of((rle(30, 30, 8, 8), 0.9, 2), (MEDIUM, 0.5, 2), truth=[Instance(2, MEDIUM)])
    assert result["ap"] == pytest.approx(50) and result["recall"] == 100


def test_one_region_covers_one_actor() -> None:
    twins = [Instance(1, MEDIUM), Instance(1, MEDIUM)]
    assert of((MEDIUM, 0.9, 1), truth=twins)["covered"] == 50


def test_a_region_called_otherwise_is_right_without_classes_and_wrong_with_them() -> None:
    result = of((MEDIUM, 0.9, 1), truth=[Instance(2, MEDIUM)])
    assert result["ap"] == pytest.approx(100)
    assert result["by_actor"]["cat"] == {"ap": 0.0, "ap50": 0.0} and result["actor_ap"] == 0
    assert math.isnan(result["by_actor"]["adult"]["ap"])


def test_recall_by_size_is_of_that_third_of_the_actors() -> None:
    result = of((SMALL, 0.9, 1), (LARGE, 0.8, 1))
    by_size = result["by_size"]
    assert by_size["thirds"] == [16, 100]
    assert [by_size[size]["covered"] for size in ("small", "medium", "large")] == pytest.approx([100, 0, 100])
    assert result["covered"] == pytest.approx(200 / 3)
    # A miss of its size costs precision there and nowhere else.
    more = of((SMALL, 0.9, 1), (LARGE, 0.8, 1), (rle(20, 35, 4, 4), 0.95, 1))["by_size"]
    assert more["small"]["ap50"] == pytest.approx(50) and more["large"]["ap50"] == pytest.approx(100)


def test_frames_are_kept_apart() -> None:
    """The actor of the second frame is found in the first one, where it isn't."""
    truth: dict[Frame, list[Instance]] = {FRAME: [], ("video", 1): [Instance(2, MEDIUM)]}
    elsewhere = found((MEDIUM, 0.9, 2)) | {("video", 1): Found([], [], [])}
    assert measure(truth, elsewhere, ACTORS)["covered"] == 0
    there = {FRAME: Found([], [], []), ("video", 1): Found([MEDIUM], [0.9], [2])}
    assert measure(truth, there, ACTORS)["covered"] == 100


def test_nothing_found_is_zero_and_nothing_to_find_is_not_measured() -> None:
    nothing = of()
    assert nothing["ap"] == nothing["recall"] == nothing["actor_ap"] == 0 and nothing["regions_per_frame"] == 0
    assert of((SMALL, 0.9, 1), truth=[]) == {"instances": 0, "regions_per_frame": 1}
    assert measure({}, {}, ACTORS) == {"instances": 0, "regions_per_frame": 0}


def test_an_actor_that_nobody_named_counts_where_names_do_not() -> None:
    result = of((MEDIUM, 0.9, 2), truth=[Instance(UNTOLD, MEDIUM)])
    assert result["covered"] == 100 and math.isnan(result["actor_ap"])


def test_more_than_255_masks_are_measured() -> None:
    many = [rle(top, left, 2, 2) for top in range(0, SIDE, 2) for left in range(0, SIDE, 2)]
    result = of(*[(mask, 0.5, 1) for mask in many[:100]], truth=[Instance(1, mask) for mask in many])
    assert result["covered"] == pytest.approx(25)
