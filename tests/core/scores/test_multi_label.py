"""`stages.core.scores.multi_label`: pixels with one actor and any number of actions, counted by hand and by loops."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco
from scipy import sparse

from stages.core import schemas
from stages.core.datasets import dataset
from stages.core.datasets.labels import A2D, IGNORE, VIDOR, LabelSpace
from stages.core.packs import masks as packed_masks
from stages.core.scores import action_masks, confusion, multi_label, resampling
from stages.core.scores.label_sets import FOUND, RIGHT, TRUE, LabelSets, count, run_ends

PARAMETERS = resampling.Parameters(resamples=5, seed=0)

Actions = Mapping[int, np.ndarray]
Labels = tuple[np.ndarray, Actions]
"""Actor map (H, W) uint8, and masks (H, W) bool by action."""
Frames = Mapping[str, Mapping[int, Labels]]


def rle(mask: np.ndarray) -> bytes:
    """Counts of a COCO RLE."""
    counts: bytes = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts


def sets(labels: Labels) -> LabelSets:
    return LabelSets(labels[0], {action: rle(mask) for action, mask in labels[1].items()})


def line(*ids: int) -> np.ndarray:
    """A map of one line; as a mask, where it is not 0."""
    return np.array([ids], np.uint8)


def write_predictions(folder: Path, frames: Frames) -> Path:
    """``<video>.arrow`` of every video."""
    folder.mkdir(parents=True, exist_ok=True)
    for video, by_frame in frames.items():
        masks = [[{"action": a, "mask": rle(mask)} for a, mask in actions.items()] for _, actions in by_frame.values()]
        columns = {
            "frame": pa.array(list(by_frame), pa.int32()),
            "actor": pa.array([packed_masks.encode(actors) for actors, _ in by_frame.values()], pa.binary()),
            "actions": pa.array(masks, schemas.ACTION_MASKS),
        }
        schemas.write_pack(folder / f"{video}.arrow", columns, schemas.MULTI_LABEL_PREDICTIONS)
    return folder


Instance = tuple[tuple[float, float, float, float], int, list[int]]
"""Box, actor, actions."""


def write_index(
    folder: Path,
    test: Frames,
    *,
    instances: Mapping[tuple[str, int], list[Instance]] | None = None,
    train: Mapping[tuple[str, int], list[Instance]] | None = None,
) -> Path:
    """data/index as far as these scores read it."""
    rows = [
        {
            "video": video,
            "frame": frame,
            "split": "test",
            "labels": packed_masks.encode(actors),
            "actions": [{"action": action, "mask": rle(mask)} for action, mask in actions.items()],
        }
        for video, frames in test.items()
        for frame, (actors, actions) in frames.items()
    ]
    picture = packed_masks.encode(line(0))
    for video, frame in train or {}:
        rows.append({"video": video, "frame": frame, "split": "train", "labels": picture, "actions": []})
    found = [
        {"video": video, "frame": frame, "instance": number, "actor": actor, "actions": actions}
        | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
        for (video, frame), boxes in {**(instances or {}), **(train or {})}.items()
        for number, (box, actor, actions) in enumerate(boxes)
    ]
    schemas.write_parquet(folder / "frames.parquet", schemas.rows_to_table(rows, schemas.FRAMES))
    schemas.write_parquet(folder / "instances.parquet", schemas.rows_to_table(found, schemas.INSTANCES))
    dataset.write_description(folder, dataset.Description("vidor", VIDOR))
    return folder


# Adult 1, aircraft 2; bite 1, caress 2, carry 3. Six pixels: an adult bites in 1 to 3, and caresses in 2 and 3.
TRUTH: Frames = {
    "--first": {4: (line(0, 1, 1, 1, 2, 2), {1: line(0, 1, 1, 1, 0, 0), 2: line(0, 0, 1, 1, 0, 0)})},
    "second": {0: (line(0, 0, 0, 2, 2, 2), {}), 7: (line(1, 1, 1, 1, 1, 1), {2: line(1, 1, 1, 1, 1, 1)})},
}
PREDICTED: Frames = {
    "--first": {4: (line(0, 1, 1, 2, 2, 0), {1: line(1, 1, 1, 1, 0, 0), 3: line(0, 0, 0, 1, 0, 0)})},
    "second": {0: (line(0, 0, 0, 2, 2, 2), {}), 7: (line(1, 1, 1, 1, 1, 1), {2: line(1, 1, 1, 0, 0, 0)})},
}


def scored(tmp_path: Path, truth: Frames = TRUTH, predicted: Frames = PREDICTED, **options: Any) -> dict[str, Any]:
    index = write_index(tmp_path / "index", truth)
    folder = write_predictions(tmp_path / "found", predicted)
    return multi_label.run(index, folder, parameters=PARAMETERS, **options)


def test_hand_counted_pixels_get_their_scores(tmp_path: Path) -> None:
    """Actors: background 4 of 4 called 5 times, adult 8 of 9 called 8 times, aircraft 4 of 5 called 5 times.

    Actions: none 8 of 9 called 8 + 3 = 11 times (1 + 2 in the first frame of which 2 right, 6 in the second, and 3
    wrong ones in the third), bite 3 of 3 called 4 times, caress 3 of 8 called 3 times; carry is not in the truth.
    """
    found = scored(tmp_path)
    assert found["actor"]["per_class"] == {
        "background": {"accuracy": 100, "iou": pytest.approx(80)},
        "adult": {"accuracy": pytest.approx(800 / 9), "iou": pytest.approx(800 / 9)},
        "aircraft": {"accuracy": 80, "iou": pytest.approx(400 / 6)},
    }
    assert found["actor"]["global_accuracy"] == pytest.approx(100 * 16 / 18)
    assert found["actor"]["mean_iou"] == pytest.approx((80 + 800 / 9 + 400 / 6) / 3)
    assert found["action"]["per_class"] == {
        "background": {"accuracy": pytest.approx(800 / 9), "iou": pytest.approx(100 * 8 / 12)},
        "bite": {"accuracy": 100, "iou": 75},
        "caress": {"accuracy": pytest.approx(300 / 8), "iou": pytest.approx(300 / 8)},
    }
    assert found["action"]["global_accuracy"] == pytest.approx(100 * (8 + 3 + 3) / (9 + 3 + 8))
    assert found["action"]["class_accuracy"] == pytest.approx((800 / 9 + 100 + 300 / 8) / 3)
    assert found["action"]["classes"] == 3
    assert found["coverage"] == {"scored": 3, "of": 3, "clips": 2}


def test_a_pair_needs_actor_and_action_and_background_neither(tmp_path: Path) -> None:
    """Adult-bite: 2 of 3 right and called so twice: the third pixel is an aircraft that bites, the fourth a background
    that does. Adult-caress: 3 of 8, called so three times. Background as among the actions."""
    found = scored(tmp_path)["joint"]
    assert found["per_class"] == {
        "background": {"accuracy": pytest.approx(800 / 9), "iou": pytest.approx(100 * 8 / 12)},
        "adult-bite": {"accuracy": pytest.approx(200 / 3), "iou": pytest.approx(200 / 3)},
        "adult-caress": {"accuracy": pytest.approx(300 / 8), "iou": pytest.approx(300 / 8)},
    }
    assert found["global_accuracy"] == pytest.approx(100 * (8 + 2 + 3) / (9 + 3 + 8))


def test_the_truth_itself_scores_100(tmp_path: Path) -> None:
    found = scored(tmp_path, TRUTH, TRUTH)
    assert all(found[kind][figure] == 100 for kind in multi_label.KINDS for figure in confusion.FIGURES)


def test_all_background_keeps_what_background_has(tmp_path: Path) -> None:
    """6 + 6 + 6 pixels: 4 without an actor, 9 without an action."""
    empty: Frames = {video: {frame: (actors * 0, {}) for frame, (actors, _) in f.items()} for video, f in TRUTH.items()}
    found = scored(tmp_path, TRUTH, empty)
    assert found["actor"]["mean_iou"] == pytest.approx(100 * 4 / 18 / 3)
    assert found["action"]["mean_iou"] == found["joint"]["mean_iou"] == pytest.approx(100 * 9 / 18 / 3)


def test_unlabelled_pixels_count_nowhere(tmp_path: Path) -> None:
    truth: Frames = {"clip": {0: (line(IGNORE, 1, 0), {1: line(0, 1, 0)})}}
    found = scored(tmp_path, truth, {"clip": {0: (line(2, 1, 0), {1: line(1, 1, 0), 2: line(1, 0, 0)})}})
    assert all(found[kind]["mean_iou"] == found[kind]["global_accuracy"] == 100 for kind in multi_label.KINDS)


def test_the_most_frequent_classes_are_those_of_most_training_frames(tmp_path: Path) -> None:
    """Adults are in two frames, three of them in one; an aircraft in one. Of actions and pairs likewise."""
    box = (0.0, 0.0, 1.0, 1.0)
    train: Mapping[tuple[str, int], list[Instance]] = {
        ("train", 0): [(box, 1, [2, 3]), (box, 1, [2]), (box, 1, [])],
        ("train", 1): [(box, 1, [2]), (box, 2, [])],
        ("other", 1): [(box, IGNORE, [])],
    }
    index = write_index(tmp_path / "index", TRUTH, instances={("second", 0): [(box, 3, [5])]}, train=train)
    classes = multi_label.frequent_classes(index, VIDOR)
    names = multi_label.class_names(VIDOR)
    found = {kind: [names[position] for position in positions] for kind, positions in classes.items()}
    assert found == {
        "actor_frequent": ["adult", "aircraft"],
        "action_frequent": ["caress", "carry"],
        "joint_frequent": ["adult-caress", "adult-carry"],
    }
    folder = write_predictions(tmp_path / "found", PREDICTED)
    result = multi_label.run(index, folder, parameters=PARAMETERS)
    assert result["actor_frequent"]["mean_iou"] == pytest.approx((800 / 9 + 400 / 6) / 2)  # without background
    assert result["action_frequent"]["global_accuracy"] == pytest.approx(300 / 8)
    assert result["joint_frequent"]["classes"] == 1


def test_twenty_classes_are_the_most_and_the_lower_id_wins(tmp_path: Path) -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    train: dict[tuple[str, int], list[Instance]] = {
        ("train", frame): [(box, actor, []) for actor in range(1, 26)] for frame in range(2)
    }
    train["train", 2] = [(box, 25, [])]
    index = write_index(tmp_path / "index", TRUTH, train=train)
    assert multi_label.frequent_classes(index, VIDOR)["actor_frequent"].tolist() == [*range(1, 20), 25]


def test_without_a_training_split_nothing_is_known_to_be_frequent(tmp_path: Path) -> None:
    found = scored(tmp_path)
    assert np.isnan(found["actor_frequent"]["mean_iou"]) and found["actor_frequent"]["classes"] == 0


def test_by_size_pixels_of_instances_of_other_sizes_are_left_out(tmp_path: Path) -> None:
    """Boxes of 1, 2 and 3 pixels, and a pixel of nobody. The small one is right, half the medium, none of the large.

    With background: small 1 of 1 and 1 of 1; medium: adult 1 of 2, called once; large 0 of 3.
    """
    truth: Frames = {"clip": {0: (line(0, 1, 1, 1, 1, 1, 1), {})}}
    predicted: Frames = {"clip": {0: (line(0, 1, 1, 0, 0, 0, 0), {})}}
    boxes: list[Instance] = [((1, 0, 2, 1), 1, []), ((2, 0, 4, 1), 1, []), ((4, 0, 7, 1), 1, [])]
    index = write_index(tmp_path / "index", truth, instances={("clip", 0): boxes})
    found = multi_label.run(index, write_predictions(tmp_path / "found", predicted), parameters=PARAMETERS)["by_size"]
    assert found["thirds"] == [1, 2]
    assert found["small"]["actor"]["mean_iou"] == 100
    assert found["medium"]["actor"]["mean_iou"] == 50  # adult 1 / 2, background 1 / 2
    assert found["large"]["actor"]["mean_iou"] == 12.5  # adult 0, background 1 / 4


def test_where_boxes_overlap_the_smaller_lies_on_top(tmp_path: Path) -> None:
    boxes: list[Instance] = [((1, 0, 2, 1), 1, []), ((0, 0, 4, 1), 1, []), ((0, 0, 3, 1), 1, [])]
    index = write_index(tmp_path / "index", TRUTH, instances={("second", 7): boxes})
    owners = action_masks.Owners(index)
    assert owners.map("second", 7, (1, 6)).tolist() == [[2, 1, 2, 3, 0, 0]]
    assert not owners.map("second", 0, (1, 6)).any()


def changed(actors: np.ndarray, actions: Mapping[int, np.ndarray]) -> Frames:
    return {**PREDICTED, "--first": {4: (actors, actions)}}


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (changed(line(0, 81, 0, 0, 0, 0), {}), "actor 81 in the prediction; actors are 0 to 80"),
        (changed(line(0, IGNORE, 0, 0, 0, 0), {}), "actor 255 in the prediction"),
        (changed(line(0, 0, 0, 0, 0, 0), {43: line(0, 1, 1, 0, 0, 0)}), "action 43; actions are 1 to 42"),
        (changed(line(0, 0, 0, 0, 0, 0), {0: line(0, 1, 1, 0, 0, 0)}), "action 0; actions are 1 to 42"),
        (changed(line(0, 0, 0), {}), r"prediction of \(1, 3\) for a truth of \(1, 6\)"),
        (changed(line(0, 0, 0, 0, 0, 0), {1: line(0, 1, 1, 0)}), "a mask of 4 pixels in a frame of 6"),
        ({**PREDICTED, "--first": {3: PREDICTED["--first"][4]}}, "no prediction; make it"),
        ({"second": PREDICTED["second"]}, "no prediction; make it"),
    ],
)
def test_a_bad_or_missing_frame_is_an_error_that_says_where(tmp_path: Path, predicted: Frames, message: str) -> None:
    with pytest.raises(ValueError, match=f"--first, frame 5: {message}"):
        scored(tmp_path, TRUTH, predicted)


def test_two_masks_of_one_action_are_an_error(tmp_path: Path) -> None:
    index, folder = write_index(tmp_path / "index", TRUTH), write_predictions(tmp_path / "found", PREDICTED)
    twice = [{"action": 1, "mask": rle(line(0, 1, 1, 0, 0, 0))}] * 2
    columns = {
        "frame": pa.array([4], pa.int32()),
        "actor": pa.array([packed_masks.encode(line(0, 0, 0, 0, 0, 0))], pa.binary()),
        "actions": pa.array([twice], schemas.ACTION_MASKS),
    }
    schemas.write_pack(folder / "--first.arrow", columns, schemas.MULTI_LABEL_PREDICTIONS)
    with pytest.raises(ValueError, match="two masks of one action"):
        multi_label.run(index, folder, parameters=PARAMETERS)


def test_counted_missing_frames_lower_the_coverage_and_no_score(tmp_path: Path) -> None:
    predicted: Frames = {"second": {7: TRUTH["second"][7]}}
    found = scored(tmp_path, TRUTH, predicted, count_missing=True)
    assert found["coverage"] == {"scored": 1, "of": 3, "clips": 1}
    assert found["joint"]["mean_iou"] == 100
    with pytest.raises(ValueError, match="nothing can be scored"):
        scored(tmp_path / "other", TRUTH, {"third": TRUTH["second"]}, count_missing=True)


def test_data_of_one_action_an_actor_belongs_to_another_score(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", TRUTH)
    dataset.write_description(index, dataset.Description("a2d", A2D))
    with pytest.raises(ValueError, match="score it by `segmentation`"):
        action_masks.open_truth(index)
    with pytest.raises(ValueError, match=r"holds no <video>\.arrow"):
        action_masks.Predictions(tmp_path / "index")


def test_the_better_of_two_methods_is_ahead_by_their_difference(tmp_path: Path) -> None:
    worse = write_predictions(tmp_path / "worse", PREDICTED)
    found = scored(tmp_path, TRUTH, TRUTH, against=worse)
    alone = multi_label.run(tmp_path / "index", worse, parameters=PARAMETERS)
    difference = found["joint"]["against"]["mean_iou"]["difference"]
    assert difference == pytest.approx(100 - alone["joint"]["mean_iou"])
    assert "against" in found["actor"]


SMALL = LabelSpace(
    "small",
    actors=("background", "cat", "dog"),
    actions=("background", "eat", "run", "sit"),
    valid_ids=(0, *range(5, 8), *range(9, 12)),
    colours={},
    stride=4,
    multi_label=True,
)


@st.composite
def frames(draw: st.DrawFn, *, unlabelled: bool) -> Labels:
    """3 x 4 pixels of ``SMALL``."""
    actors = st.sampled_from([0, 1, 2, IGNORE] if unlabelled else [0, 1, 2])
    masks = st.dictionaries(st.integers(1, 3), arrays.arrays(bool, (3, 4)), max_size=3)
    return draw(arrays.arrays(np.uint8, (3, 4), elements=actors)), draw(masks)


def classes_of(labels: Labels, pixel: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """What a pixel is, as the definition says it."""
    actor = int(labels[0][pixel])
    actions = [action for action, mask in labels[1].items() if mask[pixel]]
    yield "actor", actor
    yield from (("action", action) for action in actions or [0])
    yield from (("pair", actor, action) for action in actions)
    if not actions:
        yield "pair", 0, 0


@settings(max_examples=100, deadline=None)
@given(frames(unlabelled=True), frames(unlabelled=False), arrays.arrays(np.uint8, (3, 4), elements=st.integers(0, 3)))
def test_counts_are_those_of_a_plain_loop(truth: Labels, predicted: Labels, owners: np.ndarray) -> None:
    found = count(sets(truth), sets(predicted), owners, SMALL)
    tables_of = {"actor": found.actors, "action": found.actions, "pair": found.pairs}
    expected = {kind: np.zeros_like(counts) for kind, counts in tables_of.items()}
    for pixel in np.ndindex(3, 4):
        if truth[0][pixel] == IGNORE:
            continue
        true, called = set(classes_of(truth, pixel)), set(classes_of(predicted, pixel))
        for statistic, classes in ((RIGHT, true & called), (TRUE, true), (FOUND, called)):
            for kind, *position in classes:
                expected[kind][(statistic, owners[pixel], *position)] += 1
    for kind, counts in tables_of.items():
        assert np.array_equal(counts, expected[kind]), kind


def evidence(clips: list[tuple[Labels, Labels]], labels: LabelSpace) -> multi_label.Evidence:
    counts = [
        count(sets(truth), sets(predicted), np.zeros(truth[0].shape, np.uint8), labels).flat().ravel()
        for truth, predicted in clips
    ]
    names = [f"clip{number}" for number in range(len(clips))]
    return multi_label.Evidence(names, sparse.csr_array(np.stack(counts)), multi_label.all_classes(labels))


def as_sets(joint: np.ndarray) -> Labels:
    """An A2D label map as actors and masks."""
    return joint // 10, {int(action): joint % 10 == action for action in np.unique(joint % 10) if action}


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 17, 18, 66, 78])),
    arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 17, 14, 66, 68, 71])),
)
def test_where_every_pixel_has_one_label_the_scores_are_those_of_a2d(truth: np.ndarray, predicted: np.ndarray) -> None:
    """The prediction has pairs that can't occur (14, 71) and some that the truth lacks."""
    found = resampling.values(evidence([(as_sets(truth), as_sets(predicted))], A2D))
    for kind, scores in confusion.all_scores(confusion.confusion(truth, predicted, classes=80), A2D).items():
        for figure, value in scores.summary().items():
            assert found[f"{kind}/{figure}"] == pytest.approx(value), (kind, figure)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(frames(unlabelled=True), frames(unlabelled=False)), min_size=2, max_size=3))
def test_a_clip_of_weight_two_counts_as_the_same_clip_twice(clips: list[tuple[Labels, Labels]]) -> None:
    once, twice = evidence(clips, SMALL), evidence([*clips, clips[0]], SMALL)
    weights = np.ones(len(clips))
    weights[0] = 2
    assert once.measure(weights) == pytest.approx(resampling.values(twice), nan_ok=True)
    pooled = once.joined(twice)
    assert pooled.measure(np.concatenate([weights, np.zeros(len(clips) + 1)])) == pytest.approx(
        resampling.values(twice), nan_ok=True
    )


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_runs_are_those_that_coco_encodes(mask: np.ndarray) -> None:
    ends = run_ends(rle(mask), pixels=mask.size)
    inside = np.searchsorted(ends, np.arange(mask.size), side="right") % 2 == 1
    assert np.array_equal(inside.reshape(mask.shape, order="F"), mask)


def test_runs_longer_than_one_symbol_are_read() -> None:
    """A run of 40,000 takes four symbols; the differences to the run two before are of either sign."""
    mask = np.zeros((400, 500), bool)
    mask[:, 100:200] = mask[7, 300] = mask[8:30, 301] = True
    ends = run_ends(rle(mask), pixels=mask.size)
    assert ends.tolist() == [40_000, 80_000, 120_007, 120_008, 120_408, 120_430, 200_000]


@pytest.mark.parametrize("counts", [b"", b"o", b"\x10", b"nooo"])
def test_bytes_that_are_no_rle_are_an_error(counts: bytes) -> None:
    with pytest.raises(ValueError, match="no COCO RLE"):
        run_ends(counts, pixels=30)
