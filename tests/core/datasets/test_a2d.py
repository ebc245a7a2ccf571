"""Reading a release of A2D: every quirk of the real files is read as it is meant, and what is broken says how."""

import json
import re
from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from stages import index as index_stage
from stages.core import items, schemas
from stages.core.datasets import a2d, annotations, dataset, layouts
from stages.core.datasets.labels import A2D
from stages.core.datasets.release import ClipRow
from stages.core.packs import masks
from tests.help import make
from tests.help.make import HEIGHT, WIDTH, Square

ROW = "--h5fAKYurM,43,00:00:00,00:00:06,320,568,181,3,0"


def write_rows(folder: Path, *rows: str) -> Path:
    path = folder / "videoset.csv"
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def boxes(*corners: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Masks (H, W) of the rectangles x1, y1, x2, y2."""
    masks = []
    for x1, y1, x2, y2 in corners:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y1:y2, x1:x2] = True
        masks.append(mask)
    return masks


# The layout


def test_a_release_in_the_real_layout_is_accepted(tmp_path: Path) -> None:
    a2d.check_layout(make.write_release(tmp_path, make.RELEASE[:1]))


def test_what_is_missing_is_listed_with_the_place_it_was_looked_for(tmp_path: Path) -> None:
    make.write_release(tmp_path, make.RELEASE[:1])
    (tmp_path / "Release/README").unlink()
    (tmp_path / "a2d_annotation.txt").unlink()
    with pytest.raises(ValueError) as error:
        a2d.check_layout(tmp_path)
    lines = str(error.value).splitlines()
    assert str(tmp_path) in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["Release/README", "a2d_annotation.txt"]


def test_a_path_that_is_no_folder_is_an_error_that_says_which_folder_to_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder.*Release/"):
        a2d.check_layout(tmp_path / "nowhere")


# videoset.csv


def test_a_row_of_videoset_csv_is_read_as_its_nine_columns(tmp_path: Path) -> None:
    rows, bad = a2d.read_videoset(write_rows(tmp_path, ROW, "another_one,11,0:0:1,0:0:2,320,426,24,5,1"))
    assert rows[0] == ClipRow(
        "--h5fAKYurM", label=43, height=320, width=568, frames=181, annotated=3, split="train",
        path=a2d.CLIPS_FOLDER / "--h5fAKYurM.mp4",
    )  # fmt: skip
    assert rows[1].split == "test" and bad == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("short_row__,17,0:0:0,0:0:6,320,568", "6 fields where 9 are expected"),
        ("no_number__,17,0:0:0,0:0:6,320,wide,181,3,0", "no_number__.*wide"),
        ("third_split,17,0:0:0,0:0:6,320,568,181,3,2", "test flag 2"),
        ("../escaped_,17,0:0:0,0:0:6,320,568,181,3,0", "can't be a file name"),
        ("..,17,0:0:0,0:0:6,320,568,181,3,0", "can't be a file name"),
        (",17,0:0:0,0:0:6,320,568,181,3,0", "can't be a file name"),
        (ROW, "listed twice"),
    ],
)
def test_a_bad_row_is_left_out_with_its_line_and_reason_and_the_others_stay(
    tmp_path: Path, row: str, reason: str
) -> None:
    rows, bad = a2d.read_videoset(write_rows(tmp_path, ROW, row, "after_the_bad,11,0:0:1,0:0:2,320,426,24,3,1"))
    assert [found.video for found in rows] == ["--h5fAKYurM", "after_the_bad"]
    assert list(bad) == ["videoset.csv:2"]
    assert re.search(reason, bad["videoset.csv:2"])


@pytest.mark.parametrize("row", ["huge_label_,300,0,0,320,568,181,3,0", "less_than_0,-1,0,0,320,568,181,3,0"])
def test_a_label_that_no_table_can_hold_is_a_bad_row(tmp_path: Path, row: str) -> None:
    rows, bad = a2d.read_videoset(write_rows(tmp_path, ROW, row))
    assert len(rows) == 1 and list(bad) == ["videoset.csv:2"]


def test_a_stray_quote_costs_its_own_row_only(tmp_path: Path) -> None:
    rows, bad = a2d.read_videoset(write_rows(tmp_path, '"' + ROW, "after_the_bad,11,0,0,320,426,24,3,1"))
    assert [found.video for found in rows] == ["after_the_bad"] and list(bad) == ["videoset.csv:1"]


def test_a_header_is_no_clip(tmp_path: Path) -> None:
    rows, bad = a2d.read_videoset(write_rows(tmp_path, "vid,label,start,end,height,width,frames,anno,test", ROW))
    assert [row.video for row in rows] == ["--h5fAKYurM"] and "videoset.csv:1" in bad


@pytest.mark.parametrize("text", ["", "vid,label\n1,2\n"])
def test_another_file_is_an_error_that_shows_the_columns(tmp_path: Path, text: str) -> None:
    path = tmp_path / "videoset.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"no usable row.*video, label, start, end, height, width, frames"):
        a2d.read_videoset(path)


# Sentences


def test_sentences_are_read_and_the_release_s_own_bad_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a2d_annotation.txt"
    path.write_text(
        "video_id,instance_id,query\n"
        "--h5fAKYurM,0, bird  standing in the beach\n"
        'T6bNPuKV-wY,"1 (copy)",bird standing in the beach\n'
        "T6bNPuKV-wY,12,a man's hat\n"
        "T6bNPuKV-wY,13\n"
    )
    rows, bad = a2d.read_sentences(path)
    assert rows == [("--h5fAKYurM", 0, "bird standing in the beach"), ("T6bNPuKV-wY", 12, "a man's hat")]
    assert list(bad) == ["a2d_annotation.txt:3", "a2d_annotation.txt:5"]
    assert "1 (copy)" in bad["a2d_annotation.txt:3"] and "T6bNPuKV-wY" in bad["a2d_annotation.txt:3"]


def test_sentences_without_their_header_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a2d_annotation.txt"
    path.write_text("--h5fAKYurM,0,bird\n")
    with pytest.raises(ValueError, match="video_id,instance_id,query"):
        a2d.read_sentences(path)


# Annotations


def test_one_instance_s_mask_without_its_axis_is_read_as_one_mask(tmp_path: Path) -> None:
    (mask,) = boxes((10, 4, 30, 20))
    labels = np.where(mask, 17, 0).astype(np.uint8)
    make.write_annotation(tmp_path, "clip/00005", labels, [mask], [17])
    with h5py.File(tmp_path / a2d.MAT_FOLDER / "clip/00005.mat") as file:
        assert file["reMask"].shape == (WIDTH, HEIGHT)
    read = a2d.read_annotation(tmp_path, "clip", 4)
    assert np.array_equal(read.labels, labels) and read.labels.dtype == np.uint8
    assert np.array_equal(read.masks, mask[None]) and read.masks.dtype == bool
    assert read.boxes.tolist() == [[10, 4, 30, 20]] and read.actors.tolist() == [1] and read.actions == ((7,),)


def test_the_arrays_of_many_instances_are_transposed_back(tmp_path: Path) -> None:
    masks = boxes((0, 0, 20, 10), (30, 5, 60, 45), (25, 30, 35, 40))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for mask, label in zip(masks, (17, 66, 36), strict=True):
        labels[mask] = label
    make.write_annotation(tmp_path, "clip/00001", labels, masks, [17, 66, 36])
    read = a2d.read_annotation(tmp_path, "clip", 0)
    assert np.array_equal(read.labels, labels) and np.array_equal(read.masks, np.stack(masks))
    assert read.boxes.tolist() == [[0, 0, 20, 10], [30, 5, 60, 45], [25, 30, 35, 40]]
    assert read.actors.tolist() == [1, 6, 3] and read.actions == ((7,), (6,), (6,))


def test_one_instance_s_box_may_have_lost_its_second_axis(tmp_path: Path) -> None:
    (mask,) = boxes((10, 4, 30, 20))
    arrays = {"reS_id": mask.T * np.uint8(17), "reMask": mask.T, "id": np.array([[17.0]]), "reBBox": np.arange(4.0)}
    make.write_hdf5(tmp_path / a2d.MAT_FOLDER / "clip/00001.mat", arrays)
    assert a2d.read_annotation(tmp_path, "clip", 0).boxes.tolist() == [[0, 1, 2, 3]]


def test_instances_carry_the_ids_that_sentences_name_and_else_their_position(tmp_path: Path) -> None:
    masks = boxes((0, 0, 20, 10), (30, 5, 60, 45))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    make.write_annotation(tmp_path, "clip/00001", labels, masks, [17, 66], instances=[4, 2])
    make.write_annotation(tmp_path, "clip/00002", labels, masks, [17, 66])
    assert a2d.read_annotation(tmp_path, "clip", 0).instances.tolist() == [4, 2]
    assert a2d.read_annotation(tmp_path, "clip", 1).instances.tolist() == [0, 1]


def test_frames_are_counted_from_0_inside_and_from_1_in_file_names(tmp_path: Path) -> None:
    folder = tmp_path / a2d.MAT_FOLDER / "--clip"
    folder.mkdir(parents=True)
    for name in ("00030.mat", "00001.mat", "notes.mat", "00007.txt"):
        (folder / name).touch()
    assert a2d.annotated_frames(tmp_path, "--clip") == [0, 29]
    assert a2d.annotated_frames(tmp_path, "unknown") == []


def test_a_file_numbered_0_is_no_frame(tmp_path: Path) -> None:
    (tmp_path / a2d.MAT_FOLDER / "clip").mkdir(parents=True)
    (tmp_path / a2d.MAT_FOLDER / "clip/00000.mat").touch()
    assert a2d.annotated_frames(tmp_path, "clip") == []


def good_annotation(folder: Path, **changed: np.ndarray) -> Path:
    """00001.mat of `clip` with two instances and ``changed`` arrays."""
    masks = boxes((0, 0, 20, 10), (30, 5, 60, 45))
    arrays = {
        "reS_id": np.full((WIDTH, HEIGHT), 17, np.uint8), "reMask": np.stack([mask.T for mask in masks]),
        "id": np.array([[17.0, 66.0]]), "reBBox": np.zeros((4, 2)),
    }  # fmt: skip
    path = folder / a2d.MAT_FOLDER / "clip/00001.mat"
    make.write_hdf5(path, arrays | changed)
    return path


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"reS_id": np.full((WIDTH, HEIGHT), 87, np.uint8)}, r"unknown label ids \[87\]"),
        ({"reS_id": np.full((WIDTH, HEIGHT), 10, np.uint8)}, r"unknown label ids \[10\]"),
        ({"reS_id": np.full((WIDTH, HEIGHT), 300, np.int16)}, "outside 0 to 255"),
        ({"reS_id": np.zeros((2, WIDTH, HEIGHT), np.uint8)}, "reS_id has 3 dimensions"),
        ({"reS_id": np.zeros((HEIGHT, WIDTH), np.uint8)}, "do not fit"),
        ({"id": np.array([[17.0]])}, "1 ids"),
        ({"reBBox": np.zeros((4, 3))}, "boxes"),
        ({"id": np.array([[17.0, 99.0]])}, "99"),
    ],
    ids=["label-87", "label-10", "label-300", "three-axes", "not-transposed", "ids", "boxes", "instance-label"],
)
def test_an_annotation_that_contradicts_itself_says_how(
    tmp_path: Path, changed: dict[str, np.ndarray], reason: str
) -> None:
    good_annotation(tmp_path, **changed)
    with pytest.raises(ValueError, match=f"00001.mat.*{reason}"):
        a2d.read_annotation(tmp_path, "clip", 0)


def test_broken_files_are_errors_that_name_the_file(tmp_path: Path) -> None:
    path = good_annotation(tmp_path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"no HDF5 at all", b"MATLAB 5.0 MAT-file"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"00001\.mat can't be read"):
            a2d.read_annotation(tmp_path, "clip", 0)
    path.unlink()
    with pytest.raises(ValueError, match=r"00001\.mat is missing"):
        a2d.read_annotation(tmp_path, "clip", 0)


def test_an_annotation_without_one_of_its_arrays_is_an_error(tmp_path: Path) -> None:
    path = good_annotation(tmp_path)
    with h5py.File(path, "a") as file:
        del file["reMask"]
    with pytest.raises(ValueError, match="reMask"):
        a2d.read_annotation(tmp_path, "clip", 0)


def test_a_pixel_without_a_label_stays_255(tmp_path: Path) -> None:
    good_annotation(tmp_path, reS_id=np.full((WIDTH, HEIGHT), 255, np.uint8))
    assert (a2d.read_annotation(tmp_path, "clip", 0).labels == 255).all()


# The index stage on a release


def test_the_index_holds_every_clip_annotation_and_sentence_of_a_release(tmp_path: Path) -> None:
    make.write_release(tmp_path / "raw")
    with make.workspace(tmp_path):
        index_stage.run(layouts.Parameters(dataset="squares"), raw=tmp_path / "raw", output=tmp_path / "index")
    clips = schemas.read_parquet(tmp_path / "index/clips.parquet", schemas.CLIPS).to_pylist()
    assert [(clip["video"], clip["split"], clip["frames"]) for clip in clips] == [
        ("--first_one", "train", 12), ("-second_one", "train", 12), ("third_in_it", "test", 12),
    ]  # fmt: skip
    frames = schemas.read_parquet(tmp_path / "index/frames.parquet", schemas.FRAMES).to_pylist()
    assert [(row["video"], row["frame"]) for row in frames][:3] == [
        ("--first_one", 2),
        ("--first_one", 6),
        ("-second_one", 2),
    ]
    square = make.RELEASE[0]
    assert np.array_equal(masks.decode(frames[1]["labels"]), np.where(square.mask(6), 17, 0))
    instances = schemas.read_parquet(tmp_path / "index/instances.parquet", schemas.INSTANCES).to_pylist()
    assert len(instances) == 6 and instances[0]["x2"] - instances[0]["x1"] == make.SIDE
    assert (instances[0]["actor"], instances[0]["actions"]) == (1, [7])
    assert len(schemas.read_parquet(tmp_path / "index/sentences.parquet", schemas.SENTENCES)) == 3
    asked = json.loads((tmp_path / "index/sentences.json").read_text())
    assert [image["id"] for image in asked["images"]] == ["v_third_in_it_f_3_i_0", "v_third_in_it_f_7_i_0"]
    assert dataset.read_description(tmp_path / "index") == dataset.Description("a2d", A2D)
    assert len(schemas.read_parquet(tmp_path / "index/quarantine.parquet", schemas.QUARANTINE)) == 0


def test_what_is_broken_in_a_release_is_in_quarantine_and_all_else_is_indexed(tmp_path: Path) -> None:
    raw = make.write_release(tmp_path / "raw")
    (raw / a2d.CLIPS_FOLDER / "-second_one.mp4").unlink()
    (raw / a2d.MAT_FOLDER / "third_in_it/00003.mat").write_bytes(b"broken")
    (raw / a2d.MAT_FOLDER / "--first_one/00007.mat").unlink()
    late = Square("--first_one", frames=40)
    mask = late.mask(11)
    make.write_annotation(raw, "--first_one/00031", np.where(mask, 17, 0).astype(np.uint8), [mask], [17])
    with (raw / a2d.VIDEOSET).open("a") as file:
        file.write("bad,row\n")
    with make.workspace(tmp_path):
        index_stage.run(layouts.Parameters(dataset="squares"), raw=raw, output=tmp_path / "index")
    frames = schemas.read_parquet(tmp_path / "index/frames.parquet", schemas.FRAMES).to_pylist()
    assert [(row["video"], row["frame"]) for row in frames] == [("--first_one", 2), ("third_in_it", 6)]
    table = pq.read_table(tmp_path / "index/quarantine.parquet")
    reasons = dict(zip(table["item"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert "past the end of the clip" in reasons["--first_one/00031"]
    assert "can't be read" in reasons["third_in_it/00003"]
    assert "-second_one.mp4 is missing" in reasons["-second_one"]
    assert "videoset.csv:4" in reasons


def test_a_changed_annotation_indexes_its_clip_anew_and_no_other(tmp_path: Path) -> None:
    raw = make.write_release(tmp_path / "raw")

    def run() -> items.Outcome:
        return index_stage.run(layouts.Parameters(dataset="squares"), raw=raw, output=tmp_path / "index")

    with make.workspace(tmp_path):
        run()
        mask = make.RELEASE[1].mask(3)
        make.write_annotation(raw, "-second_one/00003", np.where(mask, 66, 0).astype(np.uint8), [mask], [66])
        assert run().computed == ["-second_one"]


def test_two_clips_with_the_same_annotations_are_indexed_each_under_its_own_name(tmp_path: Path) -> None:
    make.write_release(tmp_path / "raw", [Square("first_upload"), Square("second_upload")])
    with make.workspace(tmp_path):
        index_stage.run(layouts.Parameters(dataset="squares"), raw=tmp_path / "raw", output=tmp_path / "index")
    for table, schema in (("frames", schemas.FRAMES), ("instances", schemas.INSTANCES)):
        videos = schemas.read_parquet(tmp_path / f"index/{table}.parquet", schema)["video"].to_pylist()
        assert videos == ["first_upload", "first_upload", "second_upload", "second_upload"]


def test_a_release_without_a_single_clip_is_an_error_that_says_so(tmp_path: Path) -> None:
    raw = make.write_release(tmp_path / "raw", make.RELEASE[:1])
    (raw / a2d.CLIPS_FOLDER / "--first_one.mp4").unlink()
    with make.workspace(tmp_path), pytest.raises(ValueError, match="clip"):
        index_stage.run(layouts.Parameters(dataset="squares"), raw=raw, output=tmp_path / "index")


def test_an_indexed_clip_reads_back_as_it_was_written(tmp_path: Path) -> None:
    make.write_release(tmp_path, make.RELEASE[:1])
    row = ClipRow("--first_one", "test", a2d.CLIPS_FOLDER / "--first_one.mp4", annotated=2, frames=5)
    argument = {"folder": str(tmp_path), "layout": "a2d", "row": row}
    annotations.index_clip(argument, layouts.Parameters(dataset="").model_dump(), tmp_path / "clip.arrow")
    frames, instances, bad = annotations.read_clip(tmp_path / "clip.arrow")
    assert frames.schema.equals(schemas.FRAMES) and instances.schema.equals(schemas.INSTANCES)
    assert frames["frame"].to_pylist() == [2] and frames["split"].to_pylist() == ["test"]
    assert list(bad) == ["--first_one/00007"]


# Real files


@pytest.mark.needs_shared
def test_the_label_space_is_that_of_the_release(shared: Path) -> None:
    rows = [line.split() for line in (shared / "papers/a2d_labels.txt").read_text().splitlines() if line.strip()]
    assert {int(i): (int(r), int(g), int(b)) for _, i, _, r, g, b in rows} == A2D.colours
    assert sorted(int(i) for _, i, valid, *_ in rows if valid == "1") == sorted(A2D.valid_ids)
    assert all(name == A2D.name(int(i)) for name, i, *_ in rows if name != "BG")


@pytest.mark.needs_shared
def test_the_whole_of_a2d_s_index_has_the_papers_counts(shared: Path) -> None:
    rows, bad = a2d.read_videoset(shared / "data/a2d-index/videoset.csv")
    assert bad == {}
    assert Counter(row.split for row in rows) == {"train": 3036, "test": 746}
    annotated = {split: sum(row.annotated for row in rows if row.split == split) for split in ("train", "test")}
    assert annotated == {"train": 9561, "test": 2365}
    assert all(row.label in A2D.valid_ids for row in rows)


@pytest.mark.needs_shared
def test_every_annotation_of_the_real_examples_agrees_with_its_colour_picture(shared: Path) -> None:
    release = shared / "data/a2d-davis"
    a2d.check_layout(release)
    rows, bad = a2d.read_videoset(release / a2d.VIDEOSET)
    assert len(rows) == 15 and bad == {}
    frames = [(row, frame) for row in rows for frame in a2d.annotated_frames(release, row.video)]
    assert len(frames) == 75
    for row, frame in frames:
        read = a2d.read_annotation(release, row.video, frame)
        assert read.labels.shape == (row.height, row.width) and frame < row.frames
        assert set(np.unique(read.labels)) <= set(A2D.valid_ids)
        name = f"Release/Annotations/col/{row.video}/{frame + 1:05d}.png"
        picture = cv2.imread(str(release / name))[..., ::-1]
        assert np.array_equal(A2D.palette[read.labels], picture), name
        for mask, box in zip(read.masks, read.boxes, strict=True):
            points = np.argwhere(mask)[:, ::-1]  # x, y
            assert np.abs(np.concatenate([points.min(0), points.max(0) + 1]) - box).max() <= 1.5, name


@pytest.mark.needs_shared
def test_every_sentence_of_the_real_examples_names_an_instance_that_is_there(shared: Path) -> None:
    release = shared / "data/a2d-davis"
    sentences, bad = a2d.read_sentences(release / a2d.SENTENCES)
    assert sentences and bad == {}
    for video, instance, _ in sentences:
        seen = {
            i
            for frame in a2d.annotated_frames(release, video)
            for i in a2d.read_annotation(release, video, frame).instances
        }
        assert instance in seen, f"{video} {instance}"
