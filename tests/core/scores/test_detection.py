"""`stages.core.scores.detection`: AP of boxes with scores of actors and actions, computed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.datasets.labels import A2D
from stages.core.scores import average_precision, boxes, detection, resampling, sizes
from tests.help.boxes import HEIGHT, WIDTH, Box, Instances, write_detections, write_index
from tests.help.boxes import detection as row

PARAMETERS = resampling.Parameters(resamples=5, seed=0)
Call = Callable[..., dict[str, Any]]

LEFT: Box = (10, 10, 30, 20)  # 20 x 10
RIGHT: Box = (110, 10, 130, 20)


def along(x1: float, x2: float) -> Box:
    """A box of 10 rows: IoUs are those of intervals."""
    return (x1, 10, x2, 20)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """``call(truth, rows, **options)``: what ``run`` gives."""

    def call(truth: Instances, rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        index = write_index(tmp_path / "index", truth)
        return detection.run(
            index, write_detections(tmp_path / "found.parquet", rows), parameters=PARAMETERS, **options
        )

    return call


def test_the_best_detection_of_a_ground_truth_is_right_and_the_next_is_wrong(call: Call) -> None:
    """Two halves of 12 of one box of 20: IoU 0.6 with it, 4 / 20 with each other. The other frame's box is missed.

    Right (0.9), then wrong (0.8); 2 to be found: precision 1 up to a recall of 0.5, 6 of the 11 levels.
    """
    truth = {"clip": {0: [(along(10, 30), 17)], 5: [(LEFT, 17)]}}
    found = call(truth, [row("clip", 0, along(10, 22), 17, 0.9), row("clip", 0, along(18, 30), 17, 0.8)])
    assert found["pair_map"] == pytest.approx(100 * 6 / 11)
    assert found["actor_map"] == pytest.approx(100 * 6 / 11)
    assert found["per_class"]["pair"] == {"adult-running": pytest.approx(100 * 6 / 11)}


def test_a_wrong_detection_before_the_right_one_halves_its_precision(call: Call) -> None:
    truth = {"clip": {0: [(LEFT, 17)]}}
    found = call(truth, [row("clip", 0, RIGHT, 17, 0.9), row("clip", 0, LEFT, 17, 0.8)])
    assert found["pair_map"] == 50
    found = call(truth, [row("clip", 0, RIGHT, 17, 0.7), row("clip", 0, LEFT, 17, 0.8)])
    assert found["pair_map"] == 100


def test_three_of_ten_found_reach_a_recall_of_three_tenths(call: Call) -> None:
    """Levels 0, 0.1, 0.2 and 0.3: 4 of 11. (0.1 * 3 is more than 3 / 10 in floating point.)"""
    truth = {"clip": {frame: [(LEFT, 17)] for frame in range(10)}}
    found = call(truth, [row("clip", frame, LEFT, 17, 0.9 - frame / 100) for frame in range(3)])
    assert found["pair_map"] == pytest.approx(100 * 4 / 11)


def test_equal_scores_count_together_whatever_their_order(call: Call) -> None:
    rows = [row("clip", 0, LEFT, 17, 0.5), row("clip", 1, LEFT, 17, 0.5)]
    truth = {"clip": {0: [(LEFT, 17)], 1: []}}
    assert call(truth, rows)["pair_map"] == call(truth, rows[::-1])["pair_map"] == 50


def test_a_pair_s_score_is_the_product_of_its_actor_s_and_its_action_s(call: Call) -> None:
    """The wrong box: adult 0.8, running 0.5: 0.40. The right one: adult 0.6, running 0.7: 0.42."""
    scores: list[dict[str, Any]] = [
        {"actor_scores": [0.2, 0.8, 0, 0, 0, 0, 0, 0], "action_scores": [0.5, 0, 0, 0, 0, 0, 0, 0.5, 0, 0]},
        {"actor_scores": [0.4, 0.6, 0, 0, 0, 0, 0, 0], "action_scores": [0.3, 0, 0, 0, 0, 0, 0, 0.7, 0, 0]},
    ]
    found = call(
        {"clip": {0: [(LEFT, 17)]}}, [row("clip", 0, RIGHT, 17, **scores[0]), row("clip", 0, LEFT, 17, **scores[1])]
    )
    assert (found["pair_map"], found["actor_map"], found["action_map"]) == (100, 50, 100)


@pytest.mark.parametrize(("start", "average"), [(17, 100), (16, 100 * 6 / 11)])
def test_suppression_begins_above_an_iou_of_three_tenths(call: Call, start: int, average: float) -> None:
    """Boxes of 13: 7 apart they share 6 of 20, exactly 0.3, and both stay; 6 apart 7 of 19, and the second goes."""
    first, second = along(10, 23), along(start, start + 13)
    found = call(
        {"clip": {0: [(first, 17), (second, 17)]}},
        [row("clip", 0, first, 17, 0.9), row("clip", 0, second, 17, 0.8)],
    )
    assert found["pair_map"] == pytest.approx(average)


def test_a_suppressed_detection_suppresses_nothing() -> None:
    """0 takes 1 away, which would have taken 2."""
    iou = np.array([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    scores = np.array([[0.9, 0.8, 0.7], [0.8, 0.9, 0.7]])
    assert average_precision.suppressed(iou, scores).tolist() == [[False, True, False], [True, False, True]]


def test_suppression_keeps_to_one_class(call: Call) -> None:
    """The same box for an adult that runs and a dog that walks."""
    truth = {"clip": {0: [(LEFT, 17), (LEFT, 78)]}}
    assert call(truth, [row("clip", 0, LEFT, 17, 0.9), row("clip", 0, LEFT, 78, 0.8)])["pair_map"] == 100


@pytest.mark.parametrize(("variant", "average"), [("tsmt", 100), ("csc249", 0)])
def test_half_an_overlap_is_enough_except_for_csc249(call: Call, variant: str, average: float) -> None:
    found = call({"clip": {0: [(along(10, 30), 17)]}}, [row("clip", 0, along(10, 20), 17)], variant=variant)
    assert found["pair_map"] == found["actor_map"] == found["action_map"] == average
    assert found["variant"] == variant


def test_none_is_an_action_for_csc249_only(call: Call) -> None:
    truth = {"clip": {0: [(LEFT, 17)], 1: [(LEFT, 19)]}}
    rows = [row("clip", 0, LEFT, 17)]
    found, other = call(truth, rows), call(truth, rows, variant="csc249")
    assert (found["action_map"], found["classes"]["action"]) == (100, 1)
    assert (other["action_map"], other["classes"]["action"]) == (50, 2)
    assert found["pair_map"] == other["pair_map"] == 50


def test_one_detection_is_right_once_though_two_ground_truths_overlap_it(call: Call) -> None:
    truth = {"clip": {0: [(along(10, 30), 17), (along(10, 28), 17)]}}
    assert call(truth, [row("clip", 0, along(10, 29), 17)])["pair_map"] == pytest.approx(100 * 6 / 11)


def test_classes_that_the_truth_lacks_count_in_no_mean(call: Call) -> None:
    found = call({"clip": {0: [(LEFT, 17)]}}, [row("clip", 0, LEFT, 17), row("clip", 0, RIGHT, 78)])
    assert found["pair_map"] == found["actor_map"] == found["action_map"] == 100
    assert found["classes"] == {"pair": 1, "actor": 1, "action": 1}


def test_a_pair_that_cannot_occur_is_no_class_but_its_actor_is(call: Call) -> None:
    """Adult-flying (14): no pair of A2D."""
    found = call({"clip": {0: [(LEFT, 17)]}}, [row("clip", 0, LEFT, 14)])
    assert (found["pair_map"], found["actor_map"], found["action_map"]) == (0, 100, 0)
    assert ("pair", 14) not in detection.categories(A2D) and len(detection.categories(A2D)) == 43 + 7 + 9


def test_background_alone_finds_nothing(call: Call) -> None:
    scores: dict[str, Any] = {"actor_scores": [1, 0, 0, 0, 0, 0, 0, 0], "action_scores": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]}
    found = call({"clip": {0: [(LEFT, 17)]}}, [row("clip", 0, LEFT, 17, **scores)])
    assert (found["pair_map"], found["actor_map"], found["action_map"]) == (0, 0, 0)


def test_a_frame_without_detections_misses_its_instances_and_one_without_instances_has_only_wrong_ones(
    call: Call,
) -> None:
    truth = {"clip": {0: [(LEFT, 17)], 1: [], 2: [(LEFT, 17)]}}
    found = call(truth, [row("clip", 0, LEFT, 17, 0.8), row("clip", 1, LEFT, 17, 0.9)])
    assert found["pair_map"] == pytest.approx(100 * 6 / 11 / 2)
    assert found["coverage"] == {"scored": 3, "of": 3, "clips": 1}


def test_ground_truth_is_rounded_and_clipped_to_the_frame() -> None:
    """Half open -0.89 to 30.5 is 0.11 to 30.5 inclusive: 1 to 31; 201.2 is past the last pixel, 200."""
    given_boxes = average_precision.inclusive(np.array([[-0.89, 9.5, 30.5, 20.4], [150, 90, 201.2, 100.7]]))
    found = average_precision.rounded(given_boxes, height=HEIGHT, width=WIDTH)
    assert found.tolist() == [[1, 11, 31, 20], [151, 91, 200, 100]]
    assert average_precision.areas(found).tolist() == [31 * 10, 50 * 10]


def test_half_open_boxes_keep_their_pixels() -> None:
    found = average_precision.inclusive(np.array([[0, 0, 4, 2], [2, 0, 6, 2], [3, 1, 3, 1]]))
    assert average_precision.areas(found).tolist() == [8, 8, 0]
    iou = average_precision.intersection_over_union(found, found)
    assert iou[0, 1] == 4 / 12 and iou[2].tolist() == [0, 0, 0]


def test_by_size_other_ground_truth_and_what_is_matched_to_it_is_left_out(call: Call) -> None:
    """Boxes of 100, 400 and 900 pixels: a third each. Found: the small and the medium one; wrong: a large box, first.

    All: wrong, right, right of 3: 1 / 2 and 2 / 3; the best precision of the levels up to 0.6 is 2 / 3, 7 of 11.
    Small: the wrong box is large and counts not, nor does the one matched to the medium: 100. Large: missed.
    """
    small, medium, large = (0, 0, 10, 10), (20, 20, 40, 40), (60, 60, 90, 90)
    rows = [
        row("clip", 0, (150, 60, 180, 90), 17, 0.9),
        row("clip", 0, medium, 17, 0.8),
        row("clip", 0, small, 17, 0.7),
    ]
    found = call({"clip": {0: [(small, 17), (medium, 17), (large, 17)]}}, rows)
    assert found["pair_map"] == pytest.approx(100 * 2 / 3 * 7 / 11)
    by_size = found["by_size"]
    assert by_size["thirds"] == [100, 400]
    assert [by_size[name]["pair_map"] for name in sizes.SIZES] == [100, 100, 0]


def test_by_size_a_second_detection_counts_where_its_own_box_has_the_size_and_a_matched_one_never(call: Call) -> None:
    """Two boxes each of 100, 200 and 800 pixels. Of the mediums, one is found by a box of 120 and again by another
    (wrong), the other by a box of 100; then one small one is found.

    Medium: right, wrong, right of 2: 1 for six levels, 2 / 3 for five. Small: right of 2: six levels; the box of 100
    is matched to a medium and left out. All: right, wrong, right, right of 6: 1 for 0 and 0.1, 3 / 4 for 0.2 to 0.5.
    """
    small, medium, large = (100, 50, 110, 60), along(10, 30), (100, 70, 140, 90)
    truth = {"clip": {frame: [(box, 17) for box in (small, medium, large)] for frame in (0, 1)}}
    rows = [
        row("clip", 0, along(18, 30), 17, 0.9),
        row("clip", 0, along(10, 22), 17, 0.8),
        row("clip", 1, along(10, 20), 17, 0.7),
        row("clip", 0, small, 17, 0.6),
    ]
    found = call(truth, rows)
    assert found["by_size"]["medium"]["pair_map"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)
    assert found["by_size"]["small"]["pair_map"] == pytest.approx(100 * 6 / 11)
    assert found["by_size"]["large"]["pair_map"] == 0
    assert found["pair_map"] == pytest.approx(100 * (2 + 4 * 3 / 4) / 11)


def wrong(**columns: Any) -> dict[str, Any]:
    return row("clip", 3, LEFT, 17, **columns)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (wrong(actor_scores=[0.5] * 7), "clip, frame 4, actor_scores: 7 scores where there are 8"),
        (wrong(action_scores=[0.5] * 11), "action_scores: 11 scores where there are 10"),
        (wrong(actor_scores=None), "rows without actor_scores"),
        (wrong(actor_scores=[0.5] * 7 + [float("nan")]), "found NaN"),
        (wrong(action_scores=[0.5] * 9 + [None]), "found NaN"),
        (wrong(action_scores=[0.5] * 9 + [-1]), "negative"),
        (wrong(x1=31), "clip, frame 4: a box is inside out"),
        (wrong(y2=float("nan")), "a box is NaN"),
        (wrong(height=50), "boxes for a height of 50, the truth has 100"),
        (row("other", 3, LEFT, 17), "detections of other, no test clip"),
        (row("clip", 4, LEFT, 17), "clip, frame 5: detections of a frame that the truth doesn't have"),
    ],
)
def test_a_bad_detection_is_an_error_that_says_where(call: Call, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call({"clip": {3: [(LEFT, 17)]}}, [wrong(), bad])


def test_a_video_that_nobody_looked_at_is_an_error_or_counted(call: Call) -> None:
    truth = {"clip": {0: [(LEFT, 17)]}, "--other": {0: [(LEFT, 78)], 1: []}}
    with pytest.raises(ValueError, match="1 of 2 clips, the first is --other"):
        call(truth, [row("clip", 0, LEFT, 17)])
    found = call(truth, [row("clip", 0, LEFT, 17)], count_missing=True)
    assert found["pair_map"] == 100 and found["classes"]["pair"] == 1
    assert found["coverage"] == {"scored": 1, "of": 3, "clips": 1}
    with pytest.raises(ValueError, match="nothing can be scored"):
        call(truth, [], count_missing=True)


def test_an_empty_file_of_a_video_says_that_nothing_was_found(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", {"clip": {0: [(LEFT, 17)]}, "--other": {0: [(LEFT, 78)]}})
    write_detections(tmp_path / "found/clips/clip.parquet", [row("clip", 0, LEFT, 17)])
    write_detections(tmp_path / "found/clips/--other.parquet", [])
    found = detection.run(index, tmp_path / "found", parameters=PARAMETERS)
    assert found["pair_map"] == 50 and found["coverage"]["clips"] == 2


def test_what_is_no_table_of_detections_is_an_error(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", {"clip": {0: [(LEFT, 17)]}})
    with pytest.raises(ValueError, match=r"missing, or of another type: score \(float\), actor_scores"):
        detection.run(index, index / "instances.parquet", parameters=PARAMETERS)
    with pytest.raises(ValueError, match="not found"):
        detection.run(index, tmp_path / "none", parameters=PARAMETERS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no <video>\.parquet"):
        detection.run(index, tmp_path / "empty", parameters=PARAMETERS)
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match="no parquet file"):
        detection.run(index, tmp_path / "text.parquet", parameters=PARAMETERS)


def test_an_instance_without_actor_or_a_truth_without_test_frames_is_an_error(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", {"clip": {0: [(LEFT, 7)]}})
    with pytest.raises(ValueError, match="has no actor or no action"):
        boxes.read_truth(index)
    with pytest.raises(ValueError, match="no annotated frame of split `test`"):
        boxes.read_truth(write_index(tmp_path / "index", {"clip": {0: [(LEFT, 17)]}}, split="train"))


def test_the_better_of_two_methods_is_ahead_on_every_draw(tmp_path: Path) -> None:
    """All clips found against none: 100 points whichever clips are drawn."""
    truth = {f"clip{number}": {0: [(LEFT, 17)]} for number in range(8)}
    good = write_detections(tmp_path / "good.parquet", [row(clip, 0, LEFT, 17) for clip in truth])
    poor = write_detections(tmp_path / "poor.parquet", [row(clip, 0, RIGHT, 17) for clip in truth])
    parameters = resampling.Parameters(resamples=200, seed=0)
    index = write_index(tmp_path / "index", truth)
    found = detection.run(index, good, against=poor, parameters=parameters)["against"]["pair_map"]
    assert (found["difference"], found["low"], found["high"]) == (100, 100, 100)
    assert found["p"] < 0.05


Scene = tuple[boxes.Truth, boxes.Prediction]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Up to 3 clips of up to 2 frames, with instances of 3 pairs and detections of scores that are all different."""
    labels = st.sampled_from([17, 18, 78])
    corners = st.tuples(st.integers(0, 12), st.integers(1, 8))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    truth: dict[boxes.Frame, boxes.Instances] = {}
    shapes: dict[boxes.Frame, tuple[int, int]] = {}
    found: dict[boxes.Frame, boxes.Detections] = {}
    for clip in range(draw(st.integers(1, 3))):
        for frame in range(draw(st.integers(1, 2))):
            at = (f"clip{clip}", frame)
            instances = draw(st.lists(st.tuples(corners, labels), max_size=3))
            if not truth:
                instances = [((0, 5), 17), *instances]
            boxes_of_truth = np.array([along(x, x + width) for (x, width), _ in instances], float).reshape(-1, 4)
            truth[at] = boxes.Instances(
                average_precision.inclusive(boxes_of_truth),
                np.array([label // 10 for _, label in instances], int),
                [[label % 10] for _, label in instances],
            )
            shapes[at] = (HEIGHT, WIDTH)
            places = draw(st.lists(corners, max_size=5))
            if places:
                found[at] = boxes.Detections(
                    average_precision.inclusive(np.array([along(x, x + width) for x, width in places], float)),
                    random.random((len(places), 8)),
                    random.random((len(places), 10)),
                )
    return boxes.Truth(A2D, truth, shapes), boxes.Prediction(found, frozenset(video for video, _ in truth))


def evidence(scene: Scene, *, variant: detection.Variant = "tsmt") -> detection.Evidence:
    truth, prediction = scene
    of = detection.categories(A2D)
    ranking = detection.rank(truth, prediction, clips=truth.videos, of=of, variant=variant)
    return detection.Evidence(ranking, A2D, variant)


def plain(scene: Scene, pair: int) -> float:
    """AP of a pair as one would write it down: every detection of every frame, loop by loop."""
    truth, prediction = scene
    verdicts, positives = [], 0
    for frame, instances in truth.frames.items():
        wanted = [
            box
            for box, actor, actions in zip(instances.boxes, instances.actors, instances.actions, strict=True)
            if actor * 10 + actions[0] == pair
        ]
        positives += len(wanted)
        if frame not in prediction.frames:
            continue
        found = prediction.frames[frame]
        scores = found.actors[:, pair // 10] * found.actions[:, pair % 10]
        kept: list[int] = []
        for candidate in sorted(range(len(scores)), key=lambda number: -scores[number]):
            if all(overlap(found.boxes[candidate], found.boxes[other]) <= 0.3 for other in kept):
                kept.append(candidate)
        right = set()
        for box in wanted:
            overlapping = [candidate for candidate in kept if overlap(box, found.boxes[candidate]) >= 0.5]
            right |= set(overlapping[:1])
        verdicts += [(scores[candidate], candidate in right) for candidate in kept]
    if positives == 0:
        return float("nan")
    verdicts.sort(reverse=True)
    points = []
    for count in range(1, len(verdicts) + 1):
        true = sum(is_right for _, is_right in verdicts[:count])
        points.append((true, true / count))
    levels = [max((p for true, p in points if 10 * true >= level * positives), default=0) for level in range(11)]
    return 100 * sum(levels) / 11


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Of boxes with the same rows."""
    shared = max(0, min(first[2], second[2]) - max(first[0], second[0]) + 1)
    return shared / ((first[2] - first[0] + 1) + (second[2] - second[0] + 1) - shared)


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_average_precision_is_that_of_a_plain_loop(scene: Scene) -> None:
    found = evidence(scene)
    by_class = dict(
        zip(detection.categories(A2D), found.ranking.average_precision(np.ones(len(found.clips))), strict=True)
    )
    for pair in (17, 18, 78, 79):
        assert by_class["pair", pair] == pytest.approx(plain(scene, pair), nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(scenes())
def test_what_is_found_exactly_scores_100(scene: Scene) -> None:
    """Where no instance suppresses another of its class: detections of the truth itself, one instance a frame."""
    truth = scene[0]
    single = {
        frame: boxes.Instances(instances.boxes[:1], instances.actors[:1], instances.actions[:1])
        for frame, instances in truth.frames.items()
    }
    found = {
        frame: boxes.Detections(instances.boxes, np.eye(8)[instances.actors], np.eye(10)[np.ravel(instances.actions)])
        for frame, instances in single.items()
        if len(instances.boxes)
    }
    perfect = (boxes.Truth(A2D, single, truth.shapes), boxes.Prediction(found, frozenset()))
    assert set(resampling.values(evidence(perfect)).values()) == {100}
    assert set(resampling.values(evidence(perfect, variant="csc249")).values()) == {100}


@settings(max_examples=30, deadline=None)
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_frames_and_detections_changes_nothing(scene: Scene, random: Any) -> None:
    truth, prediction = scene
    frames = list(truth.frames)
    random.shuffle(frames)
    shuffled = {}
    for frame, found in prediction.frames.items():
        order = random.sample(range(len(found.boxes)), len(found.boxes))
        shuffled[frame] = boxes.Detections(found.boxes[order], found.actors[order], found.actions[order])
    other = (
        boxes.Truth(A2D, {frame: truth.frames[frame] for frame in frames}, truth.shapes),
        boxes.Prediction(shuffled, prediction.videos),
    )
    assert resampling.values(evidence(scene)) == pytest.approx(resampling.values(evidence(other)), nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(scenes())
def test_a_clip_of_weight_two_counts_as_the_same_clip_twice(scene: Scene) -> None:
    truth, prediction = scene
    again = {("again", frame): found for (video, frame), found in truth.frames.items() if video == "clip0"}
    found_again = {("again", frame): found for (video, frame), found in prediction.frames.items() if video == "clip0"}
    twice = evidence(
        (
            boxes.Truth(A2D, {**truth.frames, **again}, truth.shapes),
            boxes.Prediction({**prediction.frames, **found_again}, prediction.videos | {"again"}),
        )
    )
    once = evidence(scene)
    weights = np.ones(len(once.clips))
    weights[0] = 2
    assert once.measure(weights) == pytest.approx(resampling.values(twice), nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(scenes(), scenes())
def test_joined_evidence_holds_both_methods_apart(first: Scene, second: Scene) -> None:
    one, other = evidence(first), evidence(second)
    pooled = one.joined(other)
    weights = np.concatenate([np.ones(len(one.clips)), np.zeros(len(other.clips))])
    assert pooled.measure(weights) == pytest.approx(resampling.values(one), nan_ok=True)
    assert pooled.measure(1 - weights) == pytest.approx(resampling.values(other), nan_ok=True)
