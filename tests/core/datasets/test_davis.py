"""Reading one's own videos: folders like DAVIS's, plain clips, and finding out which layout a folder is in."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.datasets import layouts
from stages.core.datasets.davis import DAVISRelease, read_mask
from stages.core.datasets.plain_clips import ClipFolder
from stages.core.datasets.release import Annotation
from tests.help import make
from tests.help.make import HEIGHT, WIDTH
from tests.help.make_datasets import (  # fmt: skip
    DAVIS,
    JUMP,
    write_clips,
    write_davis,
    write_indexed_png,
    write_jhmdb,
    write_pictures,
    write_vidor,
)

DOG, BEAR = DAVIS
PARAMETERS = layouts.Parameters(dataset="mine")


def annotations(folder: Path, video: str = DOG.video) -> dict[int, Annotation | str]:
    release = DAVISRelease(folder)
    return dict(release.annotations(next(row for row in release.clips()[0] if row.video == video)))


def mask_file(folder: Path, frame: int = 2) -> Path:
    return folder / f"Annotations/480p/{DOG.video}/{frame:05d}.png"


def usable(annotation: Annotation | str) -> Annotation:
    assert isinstance(annotation, Annotation), annotation
    return annotation


# DAVIS


@pytest.mark.parametrize("resolution", ["480p", ""])
def test_a_video_is_its_pictures_its_masks_and_its_list(tmp_path: Path, resolution: str) -> None:
    release = DAVISRelease(write_davis(tmp_path, resolution=resolution))
    release.check()
    rows, bad = release.clips()
    assert bad == {} and [(row.video, row.split, row.frames, row.annotated) for row in rows] == [
        (BEAR.video, "test", 12, 2), (DOG.video, "train", 12, 2),
    ]  # fmt: skip
    assert rows[1].path.parts == tuple(filter(None, ("JPEGImages", resolution, DOG.video)))
    assert (rows[0].height, rows[0].width) == (HEIGHT, WIDTH)
    assert [path.name for path in release.annotation_files(rows[0])] == ["00002.png", "00006.png", "labels.csv"]
    assert [frame for frame, _ in release.annotations(rows[0])] == [2, 6]


def test_indices_are_ids_whatever_their_colours_and_labels_come_from_the_table(tmp_path: Path) -> None:
    read = usable(annotations(write_davis(tmp_path))[6])
    mask = DOG.mask(6)
    assert np.array_equal(read.labels, np.where(mask, 77, 0)) and read.labels.dtype == np.uint8
    assert read.actors.tolist() == [7] and read.actions == ((7,),) and read.instances.tolist() == [1]
    assert read.boxes.tolist() == [[22, 6, 38, 22]]  # the corner is at 4 + 3 * 6, 6
    assert np.array_equal(read.masks, mask[np.newaxis])


def test_a_frame_is_the_position_of_its_picture_not_its_number(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    for frame in (0, 3, 4):
        (folder / f"JPEGImages/480p/{DOG.video}/{frame:05d}.jpg").unlink()
    assert list(annotations(folder)) == [1, 3]  # pictures 1, 2, 5, 6, 7, ...


@pytest.mark.parametrize(
    ("stored", "ids"),
    [
        ([[0, 255], [255, 0]], [[0, 1], [1, 0]]),  # a mask of black and white
        ([[255, 255], [255, 255]], [[1, 1], [1, 1]]),
        ([[0, 3], [255, 1]], [[0, 3], [255, 1]]),  # beside ids, 255 is a pixel that nobody knows
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    ],
)
@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_and_indexed_masks_hold_ids(tmp_path: Path, mode: str, stored: list, ids: list) -> None:
    path = tmp_path / "mask.png"
    if mode == "P":
        write_indexed_png(path, np.array(stored, np.uint8))
    else:
        Image.fromarray(np.array(stored, np.uint8)).save(path)
    assert read_mask(path).tolist() == ids


def test_a_bitmap_is_instance_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1]]


def test_an_instance_without_a_label_is_of_no_actor_and_its_pixels_of_no_label(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[4:8, 10:20], ids[30:40, 50:60], ids[0, 0] = 1, 9, 255
    write_indexed_png(mask_file(folder), ids)
    read = usable(annotations(folder)[2])
    assert read.instances.tolist() == [1, 9]
    assert read.actors.tolist() == [7, 255] and read.actions == ((7,), ())
    assert read.boxes.tolist() == [[10, 4, 20, 8], [50, 30, 60, 40]]
    assert (read.labels[4:8, 10:20] == 77).all() and (read.labels[30:40, 50:60] == 255).all()
    assert read.labels[0, 0] == 255 and read.labels[20, 20] == 0


def test_labels_are_optional_ids_or_names(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    (folder / "labels.csv").write_text(f"video,instance,label\n {BEAR.video} , 1 , 49\n")
    assert usable(annotations(folder, BEAR.video)[2]).actions == ((9,),)
    assert usable(annotations(folder)[2]).actions == ((),)
    (folder / "labels.csv").unlink()
    assert usable(annotations(folder, BEAR.video)[2]).actors.tolist() == [255]
    assert DAVISRelease(folder).clips()[1] == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"{DOG.video},2,horse-running", "'horse-running' is no id or name"),
        (f"{DOG.video},2,74", "'74' is no id or name"),  # dog-flying, which no dog does
        (f"{DOG.video},2,0", "'0' is no id or name"),
        (f"{DOG.video},0,77", "instance '0' is no id from 1 to 254"),
        (f"{DOG.video},255,77", "no id from 1 to 254"),
        (f"{DOG.video},1,78", "instance 1 of `dog-agility` has a label"),
        ("cat,1,77", "no video `cat`"),
        ("../../etc/passwd,1,77", "can't be a file name"),
        (f"{DOG.video},77", "2 fields where 3 are expected"),
    ],
)
def test_a_bad_row_of_the_labels_costs_itself(tmp_path: Path, row: str, reason: str) -> None:
    folder = write_davis(tmp_path)
    with (folder / "labels.csv").open("a") as file:
        file.write(f"{row}\n{BEAR.video},2,dog-running\n")
    assert reason in DAVISRelease(folder).clips()[1]["labels.csv:4"]
    assert usable(annotations(folder)[2]).actions == ((7,),)


def test_sentences_are_optional_and_a_bad_row_costs_itself(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    (folder / "sentences.csv").write_text(f'video,instance,sentence\n{DOG.video},1,"a dog,  running"\n../x,1,a dog\n')
    rows, bad = DAVISRelease(folder).sentences()
    assert rows == [(DOG.video, 1, "a dog, running")] and bad.keys() == {"sentences.csv:3"}
    (folder / "sentences.csv").unlink()
    assert DAVISRelease(folder).sentences() == ([], {})


def test_a_table_without_its_header_is_an_error_that_shows_it(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    (folder / "labels.csv").write_text(f"{DOG.video},1,77\n")
    with pytest.raises(ValueError, match=r"labels\.csv: the first line must be video,instance,label"):
        DAVISRelease(folder).check()


def test_without_lists_every_clip_is_a_test_clip(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    (folder / "ImageSets/2017/val.txt").unlink()
    assert {row.split for row in DAVISRelease(folder).clips()[0]} == {"train", "test"}  # the unlisted one is test
    (folder / "ImageSets/2017/train.txt").unlink()
    assert {row.split for row in DAVISRelease(folder).clips()[0]} == {"test"}


def test_the_lists_of_2016_and_contradictions_are_read(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    pair = f"/JPEGImages/480p/{BEAR.video}/00000.jpg /Annotations/480p/{BEAR.video}/00000.png \n"
    old = folder / "ImageSets/480p/train.txt"
    old.parent.mkdir()
    old.write_text(pair + f"../{DOG.video}\n")
    rows, bad = DAVISRelease(folder).clips()
    assert {row.video: row.split for row in rows} == {BEAR.video: "test", DOG.video: "train"}
    assert bad == {
        "ImageSets/480p/train.txt:1": "video `bear` is in a list of train and in one of test; it is test",
        "ImageSets/480p/train.txt:2": "no video '../dog-agility'",
    }


def test_a_clip_that_no_list_names_is_left_out(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    (folder / "ImageSets/2017/train.txt").write_text("")
    rows, bad = DAVISRelease(folder).clips()
    assert [row.video for row in rows] == [BEAR.video] and bad == {DOG.video: "no list below ImageSets names it"}


def test_masks_that_can_not_be_used_say_why(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    path = mask_file(folder)
    whole = path.read_bytes()
    for content in (whole[:60], whole[: len(whole) - 20], b"", b"\xff\xd8\xff no PNG"):
        path.write_bytes(content)
        assert "00002.png can't be used" in str(annotations(folder)[2])
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)
    assert "holds colours (RGB), not ids" in str(annotations(folder)[2])
    Image.fromarray(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)).save(path)
    assert "soft edges?" in str(annotations(folder)[2])
    write_indexed_png(path, np.zeros((HEIGHT, 10), np.uint8))
    assert annotations(folder)[2] == "mask of (48, 10) pixels where the pictures have (48, 64)"
    assert usable(annotations(folder)[6])


def test_what_belongs_to_nothing_is_told(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    write_indexed_png(mask_file(folder, frame=99), np.zeros((2, 2), np.uint8))
    write_indexed_png(folder / "Annotations/480p/cat/00000.png", np.zeros((2, 2), np.uint8))
    (folder / "JPEGImages/480p/empty").mkdir()
    rows, bad = DAVISRelease(folder).clips()
    assert [row.annotated for row in rows] == [2, 3]
    assert bad == {
        f"{DOG.video}/00099.png": "a mask of no picture", "Annotations/480p/cat": "masks of no video",
        "empty": "no pictures",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["1.jpg", "2.jpg", "10.jpg"], "give all numbers leading zeros"),
        (["1.jpg", "1.png"], "two pictures of one name"),
        (["1.jpg"], "1.jpg is no picture"),
    ],
)
def test_pictures_that_are_no_frames_in_order_cost_their_clip(tmp_path: Path, names: list[str], reason: str) -> None:
    folder = write_davis(tmp_path)
    (folder / "ImageSets/2017/val.txt").write_text(f"{BEAR.video}\nodd\n")
    (folder / "JPEGImages/480p/odd").mkdir()
    for name in names:
        (folder / "JPEGImages/480p/odd" / name).write_bytes(b"no picture")
    rows, bad = DAVISRelease(folder).clips()
    assert len(rows) == 2 and reason in bad["odd"]


def test_of_several_resolutions_the_usual_one_counts(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    write_pictures(folder / "JPEGImages/1080p" / DOG.video, DOG.pictures(), suffix=".jpg")
    assert {row.path.parts[1] for row in DAVISRelease(folder).clips()[0]} == {"480p"}
    (folder / "JPEGImages/480p").rename(folder / "JPEGImages/720p")
    with pytest.raises(ValueError, match="holds the resolutions 1080p, 720p: keep one"):
        DAVISRelease(folder).check()


def test_folders_without_a_single_mask_are_an_error(tmp_path: Path) -> None:
    folder = write_davis(tmp_path)
    (folder / "Annotations/480p").rename(folder / "Annotations/small")
    with pytest.raises(ValueError, match="masks lie in folders of the same names"):
        DAVISRelease(folder).check()


# Plain clips


def test_plain_clips_are_files_and_folders_of_pictures_at_any_depth(tmp_path: Path) -> None:
    release = ClipFolder(write_clips(tmp_path))
    release.check()
    rows, bad = release.clips()
    assert bad == {} and [(row.video, str(row.path)) for row in rows] == [
        ("2024__beach__dog.1", "2024/beach/dog.1.MOV"), ("2024__garden", "2024/garden"), ("holiday", "holiday.mp4"),
    ]  # fmt: skip
    assert {(row.split, row.frames, row.annotated) for row in rows} == {("test", None, 0)}
    assert all(not release.annotation_files(row) and not list(release.annotations(row)) for row in rows)
    assert release.sentences() == ([], {})


def test_of_two_clips_with_one_id_the_later_one_is_left_out(tmp_path: Path) -> None:
    for name in ("a/b.mp4", "a__b.avi", "c.avi", "c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows, bad = ClipFolder(tmp_path).clips()
    assert [str(row.path) for row in rows] == ["a/b.mp4", "c.avi"]
    assert bad.keys() == {"a__b.avi", "c.mp4"} and "that of a/b.mp4" in bad["a__b.avi"]


def test_what_is_no_clip_is_told_or_hidden(tmp_path: Path) -> None:
    for name in (
        "one.mp4",
        "cover.jpg",
        ".hidden.mp4",
        "notes.txt",
        "odd/1.png",
        "odd/10.png",
        "odd/2.png",
        "new\nline.mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows, bad = ClipFolder(tmp_path).clips()
    assert [row.video for row in rows] == ["one"]
    assert bad.keys() == {"cover.jpg", "odd", r"'new\nline.mp4'"} and "leading zeros" in bad["odd"]


def test_pictures_at_the_top_are_asked_into_a_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path, JUMP.pictures()[:2])
    with pytest.raises(ValueError, match="into a folder of their own"):
        ClipFolder(tmp_path).check()


def test_links_are_followed_and_a_loop_of_links_ends(tmp_path: Path) -> None:
    write_clips(tmp_path / "elsewhere")
    (tmp_path / "raw").mkdir()
    os.symlink(tmp_path / "elsewhere/2024", tmp_path / "raw/linked")
    os.symlink(tmp_path / "raw", tmp_path / "elsewhere/2024/loop")
    assert [row.video for row in ClipFolder(tmp_path / "raw").clips()[0]] == ["linked__beach__dog.1", "linked__garden"]


# Which layout


@pytest.mark.parametrize(
    ("layout", "write"),
    [
        ("a2d", lambda folder: make.write_release(folder, make.RELEASE[:1])),
        ("jhmdb", write_jhmdb),
        ("vidor", write_vidor),
        ("vidor", lambda folder: write_vidor(folder, ssa2d=True, group="")),
        ("davis", write_davis),
        ("clips", write_clips),
    ],
)
def test_the_layout_of_a_data_set_is_found_by_looking(
    tmp_path: Path, layout: str, write: Callable[[Path], Path]
) -> None:
    found, release = layouts.open_release(write(tmp_path), PARAMETERS)
    assert found == layout and release == layouts.reader(layout, tmp_path, PARAMETERS)
    assert release.clips()[0]


def test_parameters_reach_the_reader(tmp_path: Path) -> None:
    parameters = layouts.Parameters.model_validate(
        {"dataset": "x", "jhmdb": {"split": 1}, "vidor": {"frames_apart": 8}}
    )
    assert layouts.reader("jhmdb", tmp_path, parameters).parameters.split == 1  # type: ignore[attr-defined]
    assert layouts.reader("vidor", tmp_path, parameters).parameters.frames_apart == 8  # type: ignore[attr-defined]


ALL = ", ".join(layouts.LAYOUTS)


def test_what_the_nearest_layout_lacks_is_listed_and_all_layouts_are_named(tmp_path: Path) -> None:
    (tmp_path / "puppet_mask").mkdir()
    with pytest.raises(ValueError, match=rf"J-HMDB; missing below it:\n  Rename_Images .*\n.*{ALL}"):
        layouts.open_release(tmp_path, PARAMETERS)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_of_nothing_names_all_layouts(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=ALL):
        layouts.open_release(tmp_path / name, PARAMETERS)


def test_a_folder_of_two_data_sets_is_refused(tmp_path: Path) -> None:
    write_davis(write_jhmdb(tmp_path))
    with pytest.raises(ValueError, match=r"more than one data set \(jhmdb: .*; davis: JPEGImages\)"):
        layouts.open_release(tmp_path, PARAMETERS)


def test_a_folder_above_a_data_set_is_no_folder_of_plain_clips(tmp_path: Path) -> None:
    write_vidor(tmp_path / "downloads")
    with pytest.raises(ValueError, match=f"name {re.escape(str(tmp_path / 'downloads'))}"):
        layouts.open_release(tmp_path, PARAMETERS)


def test_an_unknown_layout_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean `davis`"):
        layouts.reader("davs", tmp_path, PARAMETERS)
