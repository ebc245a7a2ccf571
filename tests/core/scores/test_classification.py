"""Video classification: pairs that a video shows, files of scores, average precision by hand and scikit-learn's."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco
from sklearn.metrics import average_precision_score

from stages.core import schemas
from stages.core.datasets.labels import A2D, IGNORE
from stages.core.datasets.shown import load_truth
from stages.core.scores import classification, resampling
from stages.core.scores.classification import ClassificationEvidence, compare, load_scores

DRAWS = resampling.Parameters(resamples=20, seed=0)
PAIRS = [A2D.name(label) for label in A2D.valid_ids[1:]]
RUNNING, ROLLING = PAIRS.index("adult-running"), PAIRS.index("cat-rolling")

Instance = tuple[str, int, int, list[int], int]
"""Video, frame, actor, actions, columns of 10 that its mask covers from the left."""


def write_index(folder: Path, frames: Sequence[tuple[str, int, str]], instances: Sequence[Instance]) -> Path:
    """data/index with (video, frame, split) and ``instances`` in frames of 4 x 10."""
    rows = []
    for number, (video, frame, actor, actions, columns) in enumerate(instances):
        mask = np.zeros((4, 10), np.uint8, order="F")
        mask[:, :columns] = 1
        rows.append(
            {"video": video, "frame": frame, "instance": number, "actor": actor, "actions": actions, "x1": 0, "y1": 0,
             "x2": columns, "y2": 4, "height": 4, "width": 10, "mask": coco.encode(mask)["counts"]}
        )  # fmt: skip
    known = [{"video": video, "frame": frame, "split": split, "labels": b""} for video, frame, split in frames]
    schemas.write_parquet(folder / "frames.parquet", schemas.rows_to_table(known, schemas.FRAMES))
    schemas.write_parquet(folder / "instances.parquet", schemas.rows_to_table(rows, schemas.INSTANCES))
    return folder


def of_pairs(**scores: float) -> list[float]:
    """43 scores: those of pairs by name (`adult_running`), else 0."""
    return [scores.get(pair.replace("-", "_"), 0.0) for pair in PAIRS]


def write_scores(path: Path, rows: dict[str, list[float]]) -> Path:
    table = [{"video": video, "scores": scores} for video, scores in rows.items()]
    schemas.write_parquet(path, schemas.rows_to_table(table, schemas.VIDEO_SCORES))
    return path


def evidence(shown: list[int], scores: list[float], *, voc07: bool = False) -> ClassificationEvidence:
    """Videos that show one pair or not."""
    clips = tuple(str(number) for number in range(len(shown)))
    return ClassificationEvidence(clips, np.array([shown], bool).T, np.array([scores], float).T, voc07)


def measured(found: ClassificationEvidence) -> float:
    return resampling.values(found)["mean_average_precision"]


# Truth


def test_a_video_shows_the_pairs_of_all_its_annotated_test_frames(tmp_path: Path) -> None:
    index = write_index(
        tmp_path,
        [("-b", 0, "test"), ("-b", 5, "test"), ("a", 0, "test"), ("c", 0, "train")],
        [("-b", 0, 1, [7], 1), ("-b", 5, 6, [6], 1), ("c", 0, 1, [7], 1), ("a", 7, 1, [7], 1)],
    )
    truth = load_truth(index)
    assert truth.videos == ("-b", "a")
    assert np.flatnonzero(truth.shown[0]).tolist() == [RUNNING, ROLLING]
    assert not truth.shown[1].any()  # frame 7 of a is not annotated


def test_what_nobody_told_shows_nothing_and_an_invalid_pair_is_named(tmp_path: Path) -> None:
    """Ball-climbing (31) is no pair of A2D."""
    instances: list[Instance] = [
        ("a", 0, IGNORE, [7], 1),
        ("a", 0, 1, [], 1),
        ("a", 0, 1, [0], 1),
        ("a", 0, 1, [IGNORE], 1),
        ("a", 0, 3, [1], 1),
    ]
    truth = load_truth(write_index(tmp_path, [("a", 0, "test")], instances))
    assert not truth.shown.any() and truth.left_out == ("ball-climbing",)


def test_the_actor_area_is_the_mean_share_of_the_frame_that_actors_cover(tmp_path: Path) -> None:
    """Frame 0: columns 0 to 3, of which another actor covers 2 again: 4 of 10. Frame 1: nobody. Frame 2: 8 of 10."""
    instances: list[Instance] = [("a", 0, 1, [7], 4), ("a", 0, 1, [7], 2), ("a", 2, 1, [7], 8)]
    truth = load_truth(write_index(tmp_path, [("a", frame, "test") for frame in range(3)], instances))
    assert truth.area == pytest.approx([(0.4 + 0 + 0.8) / 3])


def test_an_index_without_test_frames_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no frames\.parquet"):
        load_truth(tmp_path)
    with pytest.raises(ValueError, match="no annotated frame of split `test`"):
        load_truth(write_index(tmp_path, [("a", 0, "train")], []))


# Scores in files


def write_csv(path: Path, header: Sequence[str], *rows: Sequence[Any]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_csv_in_any_order_of_pairs_is_read_as_the_parquet_file(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).uniform(size=43).astype(np.float32).astype(float)
    order = np.random.default_rng(1).permutation(43)
    table = write_csv(
        tmp_path / "s.csv", ["video", *(PAIRS[i] for i in order)], ["-x", *map(repr, map(float, scores[order]))]
    )
    packed = write_scores(tmp_path / "s.parquet", {"-x": scores.tolist()})
    assert load_scores(table)["-x"].tolist() == load_scores(packed)["-x"].tolist() == scores.tolist()


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            ["video", "adult-runing", *PAIRS[1:]],
            ["a", *[0] * 43],
            "no pair `adult-runing`; did you mean `adult-running`",
        ),
        (["video", *PAIRS[1:]], ["a", *[0] * 42], "none or several of adult-climbing$"),
        (["video", *PAIRS, PAIRS[3]], ["a", *[0] * 44], f"none or several of {PAIRS[3]}$"),
        (PAIRS, [0] * 43, "must be video,adult-climbing,"),
        (["video", *PAIRS], ["a", *[0] * 42], r":2: 42 scores for 43 pairs"),
        (["video", *PAIRS], ["a", "high", *[0] * 42], "video `a`: could not convert string to float: 'high'"),
        (["video", *PAIRS], ["a", "nan", *[0] * 42], "video `a`: 43 finite scores"),
    ],
    ids=["unknown pair", "missing pair", "pair twice", "no header", "short row", "no number", "nan"],
)
def test_a_csv_that_is_none_is_a_clear_error(
    tmp_path: Path, header: Sequence[str], row: Sequence[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_scores(write_csv(tmp_path / "s.csv", header, row))


def test_a_parquet_file_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="43 finite scores are needed"):
        load_scores(write_scores(tmp_path / "s.parquet", {"a": [0.0] * 44}))
    with pytest.raises(ValueError, match="not the table expected"):
        load_scores(write_index(tmp_path, [], []) / "frames.parquet")
    with pytest.raises(ValueError, match="is no file"):
        load_scores(tmp_path / "absent.csv")


def test_a_video_twice_is_a_clear_error(tmp_path: Path) -> None:
    row = ["a", *[0] * 43]
    with pytest.raises(ValueError, match="video `a` stands twice"):
        load_scores(write_csv(tmp_path / "s.csv", ["video", *PAIRS], row, row))


# Average precision


def test_average_precision_is_that_counted_by_hand() -> None:
    """Right, wrong, right: precision 1 at recall 1/2, 2/3 at recall 1."""
    assert measured(evidence([1, 0, 1], [0.9, 0.8, 0.7])) == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_videos_of_one_score_are_ranked_together() -> None:
    """Whatever their order: precision 1/2 at recall 1."""
    assert measured(evidence([1, 0], [0.5, 0.5])) == measured(evidence([0, 1], [0.5, 0.5])) == 50


def test_eleven_points_are_those_counted_by_hand() -> None:
    """Precision 1 at recalls 0, .1, ..., .5 and 2/3 at .6, ..., 1."""
    assert measured(evidence([1, 0, 1], [0.9, 0.8, 0.7], voc07=True)) == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)


def test_eleven_points_see_a_recall_of_exactly_three_tenths() -> None:
    """Three of ten found first, then nine wrong, then seven right: 4 points at 1, 7 points at 10/19."""
    shown = [1] * 3 + [0] * 9 + [1] * 7
    found = measured(evidence(shown, list(range(19, 0, -1)), voc07=True))
    assert found == pytest.approx(100 * (4 + 7 * 10 / 19) / 11)


def test_a_pair_that_no_video_shows_does_not_count() -> None:
    found = ClassificationEvidence(
        ("a", "b"), np.array([[True, False], [False, False]]), np.array([[0.1, 0], [0.9, 9]])
    )
    assert measured(found) == 50
    assert math.isnan(measured(found.only(np.array([False, True]))))


CASES = st.integers(1, 12).flatmap(
    lambda videos: st.tuples(
        arrays.arrays(bool, (videos, 4)),
        arrays.arrays(float, (videos, 4), elements=st.sampled_from([0.1, 0.2, 0.4, 0.7])),
        arrays.arrays(float, videos, elements=st.integers(0, 3)),
    )
)


@settings(deadline=None)
@given(case=CASES)
def test_average_precision_is_scikit_learn_s_with_ties_and_weights(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    shown, scores, weights = case
    found = ClassificationEvidence(tuple("abcdefghijkl"[: len(shown)]), shown, scores).average_precisions(weights)
    for pair in range(4):
        if (weights * shown[:, pair]).sum() == 0:
            assert math.isnan(found[pair])
            continue
        theirs = average_precision_score(shown[:, pair], scores[:, pair], sample_weight=weights)
        assert found[pair] == pytest.approx(100 * theirs, abs=1e-9)


@settings(deadline=None)
@given(case=CASES, voc07=st.booleans())
def test_a_weight_of_two_is_the_video_twice_and_of_zero_its_absence(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], voc07: bool
) -> None:
    shown, scores, weights = case
    times = weights.astype(int)
    once = ClassificationEvidence(tuple("abcdefghijkl"[: len(shown)]), shown, scores, voc07)
    repeated = ClassificationEvidence(("x",) * times.sum(), shown.repeat(times, 0), scores.repeat(times, 0), voc07)
    if times.sum() == 0:
        assert math.isnan(once.measure(weights)["mean_average_precision"])
        return
    assert once.measure(weights) == pytest.approx(resampling.values(repeated), nan_ok=True)
    joined = once.joined(once).measure(np.concatenate([weights, 0 * weights]))
    assert joined == pytest.approx(once.measure(weights), nan_ok=True)


@settings(deadline=None)
@given(case=CASES, voc07=st.booleans(), data=st.data())
def test_the_order_of_videos_changes_nothing_and_a_perfect_ranking_scores_100(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], voc07: bool, data: st.DataObject
) -> None:
    shown, scores, _ = case
    clips = tuple("abcdefghijkl"[: len(shown)])
    order = data.draw(st.permutations(range(len(shown))))
    first = ClassificationEvidence(clips, shown, scores, voc07)
    second = ClassificationEvidence(clips, shown[order], scores[order], voc07)
    assert measured(first) == pytest.approx(measured(second), nan_ok=True)
    if shown.any():
        assert measured(ClassificationEvidence(clips, shown, shown * 1.0, voc07)) == pytest.approx(100)


# The whole result


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Six test videos of one frame, the first three adult-running; actors cover .1, .2, ... of the frame."""
    frames = [(video, 0, "test") for video in "abcdef"]
    pairs = [(1, 7)] * 3 + [(6, 6)] * 3
    instances: list[Instance] = [
        (video, 0, actor, [action], 1 + number)
        for number, (video, (actor, action)) in enumerate(zip("abcdef", pairs, strict=True))
    ]
    return write_index(tmp_path / "index", frames, instances)


ALL = {video: of_pairs(adult_running=0.9, cat_rolling=0.1) for video in "abc"} | {
    video: of_pairs(adult_running=0.2, cat_rolling=0.8) for video in "def"
}
ONE_WRONG = ALL | {"f": of_pairs(adult_running=0.95, cat_rolling=0.8)}


def test_the_result_has_interval_pairs_sizes_and_coverage_and_is_json(index: Path, tmp_path: Path) -> None:
    """Adult-running: f is first, then a, b and c of one score: precision 3/4 at recall 1."""
    prediction = write_scores(tmp_path / "s.parquet", ONE_WRONG | {"of the train split": of_pairs()})
    found = json.loads(json.dumps(classification.run(index, prediction, parameters=DRAWS), allow_nan=False))
    assert found["mean_average_precision"] == pytest.approx((75 + 100) / 2) and found["pairs"] == 2
    assert found["mean_average_precision_low"] <= found["mean_average_precision"] <= 100
    assert found["per_pair"] == {
        "adult-running": {"average_precision": pytest.approx(75), "videos": 3},
        "cat-rolling": {"average_precision": pytest.approx(100), "videos": 3},
    }
    assert found["coverage"] == {"scored": 6, "of": 6, "clips": 6, "without_truth": 1, "invalid_pairs": []}
    by_size = found["by_size"]
    assert by_size["thresholds"] == pytest.approx([0.2, 0.4])
    assert [by_size[size]["videos"] for size in ("small", "medium", "large")] == [2, 2, 2]
    assert [by_size[size]["pairs"] for size in ("small", "medium", "large")] == [1, 2, 1]


def test_two_methods_are_compared_on_the_same_videos(index: Path, tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one.parquet", ALL)
    other = write_scores(tmp_path / "other.parquet", ONE_WRONG)
    found = classification.run(index, one, against=other, parameters=DRAWS)["against"]["mean_average_precision"]
    assert found["difference"] == pytest.approx(100 - (75 + 100) / 2)


def test_a_video_without_scores_is_an_error_or_counted_but_never_a_zero(index: Path, tmp_path: Path) -> None:
    prediction = write_scores(tmp_path / "s.parquet", {v: scores for v, scores in ONE_WRONG.items() if v != "f"})
    with pytest.raises(ValueError, match="1 of 6 videos have no scores, `f` first"):
        classification.run(index, prediction, parameters=DRAWS)
    found = classification.run(index, prediction, count_missing=True, parameters=DRAWS)
    assert found["mean_average_precision"] == pytest.approx(100)
    assert (found["coverage"]["scored"], found["coverage"]["of"]) == (5, 6)
    assert found["by_size"]["thresholds"] == pytest.approx([0.2, 0.4])  # of all videos
    with pytest.raises(ValueError, match="nothing can be scored"):
        compare(load_truth(index), {"other": np.zeros(43)}, count_missing=True)
