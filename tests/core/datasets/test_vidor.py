"""Reading VidOR: boxes and relations become pixel labels, and whatever is wrong costs the smallest part around it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.datasets.labels import VIDOR, VIDOR_PREDICATES
from stages.core.datasets.release import Annotation, ClipRow
from stages.core.datasets.vidor import Parameters, VidORRelease, clip_maps
from stages.core.datasets.vidor_document import Box, Document, Relation, read_document
from tests.help.make import HEIGHT, WIDTH, Square
from tests.help.make_datasets import CHILD, DOG, vidor_document, write_vidor
from tests.help.make_datasets import VIDOR as SQUARES

ALL = Parameters(predicates="all")
ACTOR = {name: VIDOR.actors.index(name) for name in ("dog", "child")}
ACTION = {name: VIDOR.actions.index(name) for name in ("chase", "watch")}


def document_of(folder: Path, **changed: Any) -> Path:
    path = folder / "2401075277.json"
    path.write_text(json.dumps(vidor_document(SQUARES[0]) | changed))
    return path


def annotations(release: VidORRelease, position: int = 0) -> list[tuple[int, Annotation | str]]:
    return list(release.annotations(release.clips()[0][position]))


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ({}, "video/1025/2401075277.mp4"),
        ({"ssa2d": True}, "Videos/training/1025/2401075277.mp4"),
        ({"ssa2d": True, "group": ""}, "Videos/training/2401075277.mp4"),
    ],
)
def test_a_clip_is_found_in_each_layout(tmp_path: Path, layout: dict[str, Any], path: str) -> None:
    release = VidORRelease(write_vidor(tmp_path, **layout))
    release.check()
    rows, bad = release.clips()
    assert bad == {} and [(row.video, row.split) for row in rows] == [("2401075277", "train"), ("5159741010", "test")]
    assert str(rows[0].path) == path and (tmp_path / path).exists()
    assert (rows[0].frames, rows[0].height, rows[0].width) == (40, HEIGHT, WIDTH)
    assert [file.name for file in release.annotation_files(rows[1])] == ["5159741010.json"]
    assert len(annotations(release)) == len(annotations(release, 1)) == 2


def test_videos_may_have_groups_where_annotations_have_none(tmp_path: Path) -> None:
    write_vidor(tmp_path, ssa2d=True)
    inner = tmp_path / "Annotations/training/1025/2401075277.json"
    inner.rename(tmp_path / "Annotations/training/2401075277.json")
    release = VidORRelease(tmp_path)
    assert str(release.clips()[0][0].path) == "Videos/training/1025/2401075277.mp4"
    assert [frame for frame, _ in annotations(release)] == [8, 24]


def test_a_clip_without_its_video_says_where_it_should_lie(tmp_path: Path) -> None:
    write_vidor(tmp_path)
    (tmp_path / "video/1025/2401075277.mp4").unlink()
    assert str(VidORRelease(tmp_path).clips()[0][0].path) == "video/1025/2401075277.mp4"


@pytest.mark.parametrize(
    ("apart", "frames", "expected"), [(16, 40, [8, 24]), (16, 41, [8, 24, 40]), (16, 5, [4]), (1, 2, [0, 1])]
)
def test_every_so_many_frames_are_annotated_and_of_a_short_clip_one(
    tmp_path: Path, apart: int, frames: int, expected: list[int]
) -> None:
    write_vidor(tmp_path)
    content = vidor_document(Square("2401075277", frames=frames, speed=(0, 0)))
    (tmp_path / "annotation/training/1025/2401075277.json").write_text(json.dumps(content))
    release = VidORRelease(tmp_path, Parameters(frames_apart=apart))
    assert [frame for frame, _ in annotations(release)] == expected
    assert release.clips()[0][0].annotated == len(expected)


def test_boxes_become_instances_and_later_ones_lie_on_top(tmp_path: Path) -> None:
    """At frame 8 the dog's square has its corner at 4 + 2 * 8, 6 + 8 and covers a part of the child."""
    _, read = annotations(VidORRelease(write_vidor(tmp_path)))[0]
    assert isinstance(read, Annotation)
    assert read.instances.tolist() == [CHILD, DOG] and read.actors.tolist() == [ACTOR["child"], ACTOR["dog"]]
    assert read.boxes.tolist() == [[10, 20, 30, 40], [20, 14, 36, 30]]
    assert read.actions == ((ACTION["watch"],), (ACTION["chase"],))
    child, dog = read.masks
    assert child.sum() == 20 * 20 and dog.sum() == 16 * 16 and (child & dog).sum() == 10 * 10
    assert np.array_equal(read.labels == ACTOR["dog"], dog)
    assert np.array_equal(read.labels == ACTOR["child"], child & ~dog) and read.labels.dtype == np.uint8
    assert read.action_masks.keys() == {ACTION["chase"], ACTION["watch"]}
    assert np.array_equal(read.action_masks[ACTION["chase"]], dog)
    assert np.array_equal(read.action_masks[ACTION["watch"]], child)


def test_an_action_lasts_to_before_its_end(tmp_path: Path) -> None:
    document = read_document(document_of(tmp_path), VIDOR)
    assert [bool(document.actions(DOG, frame)) for frame in (0, 19, 20)] == [True, True, False]
    assert [bool(document.actions(CHILD, frame)) for frame in (7, 8, 39)] == [False, True, True]


def test_relations_in_space_count_where_all_predicates_are_asked_for(tmp_path: Path) -> None:
    release = VidORRelease(write_vidor(tmp_path), ALL)
    assert release.label_space is VIDOR_PREDICATES
    _, read = annotations(release)[1]  # frame 24: the chase is over
    assert isinstance(read, Annotation)
    done = [[VIDOR_PREDICATES.actions[action] for action in actions] for actions in read.actions]
    assert done == [["watch"], ["next_to"]]


def test_a_box_that_leaves_the_picture_is_painted_as_far_as_it_is_in_it(tmp_path: Path) -> None:
    box = {"tid": DOG, "bbox": {"xmin": -5, "ymin": 40, "xmax": 2, "ymax": 60}}
    path = write_vidor(tmp_path) / "annotation/training/1025/2401075277.json"
    path.write_text(json.dumps(vidor_document(SQUARES[0]) | {"trajectories": [[box]] * 40}))
    _, read = annotations(VidORRelease(tmp_path))[0]
    assert isinstance(read, Annotation) and read.boxes.tolist() == [[-5, 40, 3, 61]]
    assert read.masks[0].sum() == 3 * 8  # columns 0 to 2, rows 40 to 47


def test_a_frame_without_boxes_is_annotated(tmp_path: Path) -> None:
    path = write_vidor(tmp_path) / "annotation/training/1025/2401075277.json"
    path.write_text(json.dumps(vidor_document(SQUARES[0]) | {"trajectories": [[]] * 40}))
    _, read = annotations(VidORRelease(tmp_path))[0]
    assert isinstance(read, Annotation) and read.masks.shape == (0, HEIGHT, WIDTH) and read.boxes.shape == (0, 4)
    assert not read.labels.any() and read.action_masks == {}


# What is wrong


CORNERS = {"xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}
LISTED = [{"tid": CHILD, "category": "child"}, {"tid": DOG, "category": "dog"}]


def relation(**changed: Any) -> dict[str, Any]:
    return {"subject_tid": DOG, "object_tid": CHILD, "predicate": "bite", "begin_fid": 0, "end_fid": 9} | changed


@pytest.mark.parametrize(
    ("part", "added", "reason"),
    [
        ("subject/objects", {"tid": 9, "category": "unicorn"}, "tid 9 is of the unknown category 'unicorn'"),
        ("subject/objects", {"tid": 9, "category": ["dog"]}, "unknown category"),
        ("subject/objects", {"tid": "9", "category": "dog"}, "tid '9' is no number"),
        ("subject/objects", {"tid": DOG, "category": "cat"}, "tid 3 is listed twice"),
        ("subject/objects", "dog", "'dog' is no object"),
        ("relation_instances", relation(predicate="eat"), "unknown predicate 'eat'"),
        ("relation_instances", relation(subject_tid=0), "`bite` of tids 0 and 7, which are not both listed"),
        ("relation_instances", relation(object_tid=None), "not both listed"),
        ("relation_instances", relation(begin_fid=9), "`bite` from frame 9 to 9"),
        ("relation_instances", relation(end_fid=1e400), "from frame 0 to inf"),
        ("relation_instances", None, "None is no object"),
    ],
)
def test_a_bad_entry_is_left_out_with_its_reason_and_the_others_stay(
    tmp_path: Path, part: str, added: Any, reason: str
) -> None:
    good = read_document(document_of(tmp_path), VIDOR)
    bad = read_document(document_of(tmp_path, **{part: [*vidor_document(SQUARES[0])[part], added]}), VIDOR)
    faults = bad.faults_at(range(40))
    assert good.faults_at(range(40)) == {} and faults.keys() == {part} and reason in faults[part]
    assert all(bad.boxes(frame) == good.boxes(frame) and len(bad.boxes(frame)) == 2 for frame in range(20))
    assert bad.relations == good.relations


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ({"tid": 9, "bbox": CORNERS}, "frame 1: box of tid 9, which `subject/objects` does not list"),
        ({"tid": DOG, "bbox": CORNERS | {"xmax": -1}}, "box of tid 3 is inside out"),
        ({"tid": DOG, "bbox": CORNERS | {"ymin": 1.5}}, "corners [0, 1.5, 9, 9] are no whole numbers"),
        ({"tid": DOG, "bbox": CORNERS | {"ymin": 2**40, "ymax": 2**41}}, "no whole numbers"),
        ({"tid": DOG, "bbox": CORNERS | {"xmin": WIDTH, "xmax": WIDTH}}, "outside the picture"),
        ({"tid": DOG, "bbox": [0, 0, 9, 9]}, "is no box"),
        ({"tid": [DOG], "bbox": CORNERS}, "box of tid [3]"),
        ({"tid": CHILD, "bbox": CORNERS}, "tid 7 has two boxes"),
        ("box", "'box' is no box"),
    ],
)
def test_a_bad_box_costs_itself(tmp_path: Path, box: Any, reason: str) -> None:
    child = {"tid": CHILD, "bbox": CORNERS}
    document = read_document(document_of(tmp_path, trajectories=[[child], [child, box], [child]] + [[]] * 37), VIDOR)
    faults = document.faults_at(range(40))
    assert faults.keys() == {"trajectories"} and reason in faults["trajectories"]
    assert all(document.boxes(frame) == (Box(CHILD, 0, 0, 9, 9),) for frame in range(3))
    assert document.faults_at([0, 2]) == {}  # a fault at a frame that does not count


def test_many_faults_are_told_as_the_first_and_their_number(tmp_path: Path) -> None:
    box = {"tid": 9, "bbox": CORNERS}
    document = read_document(document_of(tmp_path, trajectories=[[box]] * 40), VIDOR)
    assert document.faults_at(range(40))["trajectories"].endswith("does not list (and 39 more)")


def test_boxes_of_an_unknown_category_are_left_out_with_it(tmp_path: Path) -> None:
    listed = [LISTED[0], {"tid": DOG, "category": "unicorn"}]
    document = read_document(document_of(tmp_path, **{"subject/objects": listed}), VIDOR)
    assert document.faults_at(range(40)).keys() == {"subject/objects"}
    assert {box.tid for frame in range(40) for box in document.boxes(frame)} == {CHILD}


@pytest.mark.parametrize("length", [20, 60])
def test_trajectories_of_another_length_cost_the_frames_that_they_lack(tmp_path: Path, length: int) -> None:
    boxes = [[{"tid": DOG, "bbox": CORNERS}]] * length
    path = write_vidor(tmp_path) / "annotation/training/1025/2401075277.json"
    path.write_text(json.dumps(vidor_document(SQUARES[0]) | {"trajectories": boxes}))
    release = VidORRelease(tmp_path)
    assert f"boxes of {length} frames where `frame_count` says 40" in release.clips()[1]["2401075277/trajectories"]
    (_, first), (frame, second) = annotations(release)
    assert isinstance(first, Annotation) and frame == 24
    assert isinstance(second, Annotation) == (length == 60) or "no boxes of frame 24" in str(second)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"video_id": "../../etc/passwd"}, "says that it is of video '../../etc/passwd'"),
        ({"video_id": 2401075277}, "of video 2401075277"),
        ({"frame_count": 0}, "`frame_count` is 0, a positive number expected"),
        ({"frame_count": 10**9}, "can't be true"),
        ({"height": 10**6, "width": 10**6}, "can't be true"),
        ({"width": None}, "`width` is None"),
    ],
)
def test_a_document_that_contradicts_itself_costs_its_clip(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    path = write_vidor(tmp_path) / "annotation/training/1025/2401075277.json"
    path.write_text(json.dumps(vidor_document(SQUARES[0]) | changed))
    rows, bad = VidORRelease(tmp_path).clips()
    assert [row.video for row in rows] == ["5159741010"] and reason in bad["training/2401075277.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"video_id": "240', "[" * 100_000, '"\udcff"', "9" * 5000])
def test_a_file_that_is_no_document_costs_its_clip(tmp_path: Path, text: str) -> None:
    path = write_vidor(tmp_path) / "annotation/training/1025/2401075277.json"
    release = VidORRelease(tmp_path)
    row = release.clips()[0][0]
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert "2401075277.json" in release.clips()[1]["training/2401075277.json"]
    assert [(frame, isinstance(reason, str)) for frame, reason in release.annotations(row)] == [(8, True), (24, True)]


def test_a_video_that_is_annotated_twice_counts_once(tmp_path: Path) -> None:
    again = write_vidor(tmp_path) / "annotation/validation/1026/2401075277.json"
    again.parent.mkdir()
    again.write_text(json.dumps(vidor_document(SQUARES[0])))
    rows, bad = VidORRelease(tmp_path).clips()
    assert [(row.video, row.split) for row in rows] == [("2401075277", "train"), ("5159741010", "test")]
    assert "annotated twice" in bad["validation/2401075277.json"]


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    (tmp_path / "annotation").mkdir()
    with pytest.raises(ValueError, match=r"VidOR; missing below it:\n  video \(.*\n  annotation/training or"):
        VidORRelease(tmp_path).check()
    with pytest.raises(ValueError, match=r"no usable <video>\.json"):
        VidORRelease(tmp_path).clips()


def test_there_are_no_sentences(tmp_path: Path) -> None:
    assert VidORRelease(write_vidor(tmp_path)).sentences() == ([], {})


# SSA2D's pixel labels


def clip(boxes: dict[int, tuple[int, int, int, int]], *relations: Relation, frames: int = 16) -> Document:
    """The same boxes, by tid, in every frame of a clip of 112 x 56 pixels: two and one a cell."""
    listed = [{"tid": tid, "bbox": dict(zip(Box._fields[1:], corners, strict=True))} for tid, corners in boxes.items()]
    categories = {DOG: ACTOR["dog"], CHILD: ACTOR["child"]}
    return Document(frames, 56, 112, categories, [listed] * frames, relations)


def test_corners_are_scaled_rounded_half_to_even_and_not_included() -> None:
    """Corners 5, 7 and 21, 23 are 2.5, 3.5 and 10.5, 11.5 cells across."""
    objects, actions = clip_maps(clip({DOG: (5, 4, 21, 9), CHILD: (7, 20, 23, 21)}), range(16), VIDOR)
    assert objects.shape == (8, 56, 56) and objects.dtype == np.uint8
    assert actions.shape == (8, 42, 56, 56) and not actions.any()
    expected = np.zeros((56, 56), int)
    expected[4:9, 2:10] = ACTOR["dog"]
    expected[20:21, 4:12] = ACTOR["child"]
    assert all(np.array_equal(frame, expected) for frame in objects)


def test_boxes_are_clamped_to_the_grid_and_later_ones_overwrite() -> None:
    objects, _ = clip_maps(clip({DOG: (-20, -3, 400, 99), CHILD: (0, 0, 112, 28)}), range(16), VIDOR)
    assert (objects[0, :28] == ACTOR["child"]).all() and (objects[0, 28:] == ACTOR["dog"]).all()


@pytest.mark.parametrize(("begin", "seen"), [(0, True), (8, True), (9, False)])
def test_an_action_of_fewer_than_half_of_the_frames_is_taken_out(begin: int, seen: bool) -> None:
    chase = Relation(DOG, ACTION["chase"], begin, 16)
    _, actions = clip_maps(clip({DOG: (0, 0, 20, 20)}, chase), range(16), VIDOR)
    # Frames 0, 2, ..., 14 stay; the chase is on from `begin`. Channel k is action k + 1.
    assert actions.any(axis=(1, 2, 3)).tolist() == [seen and frame >= begin for frame in range(0, 16, 2)]
    assert actions[7, ACTION["chase"] - 1, :20, :10].all() == seen and actions[7].sum() == 200 * seen


def test_two_things_at_once_are_two_channels() -> None:
    done = [Relation(DOG, ACTION[name], 0, 16) for name in ("chase", "watch")]
    _, actions = clip_maps(clip({DOG: (0, 0, 20, 20), CHILD: (50, 0, 60, 20)}, *done), range(16), VIDOR)
    assert np.flatnonzero(actions[0].any(axis=(1, 2))).tolist() == [ACTION["chase"] - 1, ACTION["watch"] - 1]
    assert not actions[..., 25:].any()


def test_objects_that_do_nothing_may_be_background() -> None:
    document = clip({DOG: (0, 0, 20, 20), CHILD: (50, 0, 60, 20)}, Relation(DOG, ACTION["chase"], 0, 16))
    plain, _ = clip_maps(document, range(16), VIDOR)
    acting, _ = clip_maps(document, range(16), VIDOR, acting_only=True)
    assert set(np.unique(plain)) == {0, ACTOR["dog"], ACTOR["child"]} and set(np.unique(acting)) == {0, ACTOR["dog"]}
    assert np.array_equal(acting == ACTOR["dog"], plain == ACTOR["dog"])


def test_all_predicates_have_fifty_channels_and_frames_past_the_end_have_nothing() -> None:
    document = clip({DOG: (0, 0, 20, 20)}, Relation(DOG, 1, 0, 99), frames=12)
    objects, actions = clip_maps(document, range(4, 20), VIDOR_PREDICATES, grid=28)
    assert actions.shape == (8, 50, 28, 28)
    # 8 of the 16 frames exist, 4 to 11: just enough; the second half has no boxes.
    assert objects.any(axis=(1, 2)).tolist() == actions.any(axis=(1, 2, 3)).tolist() == [True] * 4 + [False] * 4


def test_a_row_of_another_reader_s_clip_finds_its_annotation(tmp_path: Path) -> None:
    """Workers make readers of their own, from the folder alone."""
    row: ClipRow = VidORRelease(write_vidor(tmp_path)).clips()[0][0]
    assert [frame for frame, _ in VidORRelease(tmp_path).annotations(row)] == [8, 24]
