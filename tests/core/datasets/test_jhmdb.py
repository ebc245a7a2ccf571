"""Reading J-HMDB: its masks and splits as they are published, with Gavrilyuk's sentences or without."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from stages.core.datasets.jhmdb import JHMDBRelease, Parameters, middles, read_masks
from stages.core.datasets.labels import JHMDB
from stages.core.datasets.release import Annotation, ClipRow
from tests.help.make import HEIGHT, WIDTH
from tests.help.make_datasets import JUMP, SHORT, WAVE, write_jhmdb, write_pictures, write_puppet_mask

FIXED = Parameters(sampling="fixed")


def row_of(release: JHMDBRelease, video: str) -> ClipRow:
    return next(row for row in release.clips()[0] if row.video == video)


def annotations(release: JHMDBRelease, video: str = WAVE.video) -> dict[int, Annotation | str]:
    return dict(release.annotations(row_of(release, video)))


def usable(annotation: Annotation | str) -> Annotation:
    assert isinstance(annotation, Annotation), annotation
    return annotation


def test_every_clip_is_a_folder_of_pictures_and_a_test_clip(tmp_path: Path) -> None:
    release = JHMDBRelease(write_jhmdb(tmp_path))
    release.check()
    rows, bad = release.clips()
    assert bad == {} and [(row.video, row.split, row.frames, row.annotated) for row in rows] == [
        (JUMP.video, "test", 12, 3), (WAVE.video, "test", 12, 3),
    ]  # fmt: skip
    assert (tmp_path / rows[0].path / "00001.png").exists()


def test_an_annotation_is_one_person_who_does_what_the_folder_says(tmp_path: Path) -> None:
    read = usable(annotations(JHMDBRelease(write_jhmdb(tmp_path)), JUMP.video)[6])
    mask = JUMP.mask(6)
    # 22 ids an actor; jump is the sixth action: 1 * 22 + 6.
    assert np.array_equal(read.labels, np.where(mask, 28, 0)) and read.labels.dtype == np.uint8
    assert JHMDB.name(28) == "person-jump"
    assert read.actors.tolist() == [1] and read.actions == ((6,),) and read.instances.tolist() == [0]
    # The square's corner is at 4 + 2 * 6, 6 + 1 * 6; its side is 16.
    assert read.boxes.tolist() == [[16, 12, 32, 28]] and np.array_equal(read.masks, mask[np.newaxis])


@pytest.mark.parametrize(
    ("length", "parts", "frames"),
    [
        (10, 3, [1, 5, 8]),  # parts of 3.33 frames: middles 1.67, 5, 8.33
        (40, 3, [6, 20, 33]),
        (12, 1, [6]),
        (2, 3, [0, 1]),
        (0, 3, []),
    ],
)
def test_uniform_frames_lie_in_the_middles_of_equal_parts(length: int, parts: int, frames: list[int]) -> None:
    assert middles(length, parts) == frames


def test_sampled_frames_come_from_those_that_have_a_mask(tmp_path: Path) -> None:
    """12 pictures, 10 masks: the middles are those of 10."""
    found = annotations(JHMDBRelease(write_jhmdb(tmp_path)))
    assert list(found) == [1, 5, 8] and all(isinstance(annotation, Annotation) for annotation in found.values())


def test_the_masks_of_matlab_7_3_are_read_as_those_of_matlab_5(tmp_path: Path) -> None:
    masks = np.stack([JUMP.mask(frame) for frame in range(3)], axis=-1)  # (H, W, T)
    old = write_puppet_mask(tmp_path, "jump", "old", masks.astype(np.uint8))
    new = write_puppet_mask(tmp_path, "jump", "new", masks.astype(np.uint8))
    with h5py.File(new, "w", userblock_size=512) as file:
        file["part_mask"] = masks.transpose().astype(np.float64)
    assert read_masks(old).shape == (3, HEIGHT, WIDTH)
    assert np.array_equal(read_masks(old), masks.transpose(2, 0, 1)) and np.array_equal(
        read_masks(new), read_masks(old)
    )


def test_one_mask_has_lost_its_last_axis(tmp_path: Path) -> None:
    path = write_puppet_mask(tmp_path, "jump", "one", JUMP.mask(0).astype(np.uint8))
    assert np.array_equal(read_masks(path), JUMP.mask(0)[np.newaxis])


def test_parts_of_the_body_are_all_the_person(tmp_path: Path) -> None:
    parts = np.array([[[0], [1]], [[7], [15]]], np.uint8)
    assert read_masks(write_puppet_mask(tmp_path, "jump", "parts", parts)).tolist() == [[[False, True], [True, True]]]


def test_a_frame_in_which_nothing_is_seen_is_annotated_without_an_instance(tmp_path: Path) -> None:
    masks = np.zeros((HEIGHT, WIDTH, SHORT), np.uint8)
    masks[3, 4, 5] = 1
    write_puppet_mask(write_jhmdb(tmp_path), "wave", WAVE.video, masks)
    found = annotations(JHMDBRelease(tmp_path))
    empty, seen = usable(found[1]), usable(found[5])
    assert empty.masks.shape == (0, HEIGHT, WIDTH) and empty.boxes.shape == (0, 4) and empty.actions == ()
    assert not empty.labels.any() and seen.boxes.tolist() == [[4, 3, 5, 4]]


def test_masks_that_are_missing_or_broken_cost_the_sampled_frames(tmp_path: Path) -> None:
    release = JHMDBRelease(write_jhmdb(tmp_path))
    row = row_of(release, WAVE.video)
    (path,) = release.annotation_files(row)
    path.write_bytes(path.read_bytes()[:150])
    assert [frame for frame, _ in release.annotations(row)] == [2, 6, 10]
    assert all("puppet_mask.mat can't be read" in str(reason) for _, reason in release.annotations(row))
    path.unlink()
    assert all("puppet_mask.mat is missing" in str(reason) for _, reason in release.annotations(row))
    assert release.annotation_files(row) == []


@pytest.mark.parametrize("masks", [np.zeros((2, 2, 2, 2)), np.zeros((0, 4, 3)), np.array(["text"])])
def test_an_array_of_another_kind_is_a_reason(tmp_path: Path, masks: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"puppet_mask\.mat.*part_mask"):
        read_masks(write_puppet_mask(tmp_path, "jump", "odd", masks))


def test_masks_that_lie_in_another_file_are_not_followed(tmp_path: Path) -> None:
    """A link inside an HDF5 file could lead anywhere."""
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["part_mask"] = np.ones((3, WIDTH, HEIGHT))
    path = write_puppet_mask(tmp_path, "jump", "linked", np.zeros((2, 2, 2)))
    with h5py.File(path, "w") as file:
        file["part_mask"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "part_mask")
    with pytest.raises(ValueError, match="no array of this file"):
        read_masks(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("part_mask", (2, 2, 2), "u1", external=[(str(tmp_path / "elsewhere.h5"), 0, 8)])
    with pytest.raises(ValueError, match="stored in another file"):
        read_masks(path)


# Fixed samples


def test_fixed_frames_and_their_sentences_are_those_of_the_public_list(tmp_path: Path) -> None:
    release = JHMDBRelease(write_jhmdb(tmp_path), FIXED)
    release.check()
    assert list(annotations(release)) == [1, 6, 8]  # pictures 00002, 00007, 00009
    rows, bad = release.sentences()
    assert rows == [(JUMP.video, 0, "a square that does jump"), (WAVE.video, 0, "a square that does wave")] and not bad
    assert len(release.annotation_files(row_of(release, WAVE.video))) == 2


def test_what_is_wrong_in_the_public_list_costs_its_row(tmp_path: Path) -> None:
    path = write_jhmdb(tmp_path) / "jhmdb_sentences_samples_metadata.json"
    hostile = ["../../etc", "00001.png", "m", 40, "q"], [WAVE.video, "../x.png", "m", 40, "q"], [WAVE.video, 3], None
    path.write_text(json.dumps([*hostile, [WAVE.video, "../../00012.png", "/etc/passwd", 40, "a  wave"]]))
    release = JHMDBRelease(tmp_path, FIXED)
    rows, bad = release.clips()
    assert [row.annotated for row in rows] == [0, 1]
    assert f"{path.name}[0]" in bad and "file name" in bad[f"{path.name}[0]"]
    assert {f"{path.name}[{number}]" for number in range(4)} | {f"{JUMP.video}/samples"} == set(bad)
    assert release.sentences()[0] == [(WAVE.video, 0, "a wave")]
    assert annotations(release) == {11: "frame 12 has no mask: 10 masks, 12 pictures"}


# Splits


def test_an_official_split_says_what_is_train_and_test(tmp_path: Path) -> None:
    release = JHMDBRelease(write_jhmdb(tmp_path), Parameters(split=2))
    release.check()
    assert {row.video: row.split for row in release.clips()[0]} == {JUMP.video: "train", WAVE.video: "test"}


def test_a_clip_that_its_split_does_not_name_is_left_out(tmp_path: Path) -> None:
    path = write_jhmdb(tmp_path) / "splits/wave_test_split1.txt"
    path.write_text(f"../{WAVE.video}.avi 2\n{WAVE.video}.avi 3\n")
    rows, bad = JHMDBRelease(tmp_path, Parameters(split=1)).clips()
    assert [row.video for row in rows] == [JUMP.video]
    assert "does not name it" in bad[f"wave/{WAVE.video}"] and "1 or 2" in bad["splits/wave_test_split1.txt:2"]


def test_a_split_without_its_files_lists_them(tmp_path: Path) -> None:
    (write_jhmdb(tmp_path) / "splits/wave_test_split3.txt").unlink()
    with pytest.raises(ValueError, match=r"missing below it:\n  splits/wave_test_split3\.txt \(.*split: 3"):
        JHMDBRelease(tmp_path, Parameters(split=3)).check()


def test_the_folder_of_masks_and_the_public_list_are_missed(tmp_path: Path) -> None:
    (tmp_path / "Rename_Images").mkdir()
    with pytest.raises(ValueError, match=r"J-HMDB; missing below it:\n  puppet_mask .*\n  jhmdb_sentences_samples"):
        JHMDBRelease(tmp_path, FIXED).check()


# Folders and sentences


def test_folders_that_are_no_clip_are_left_out_with_their_reason(tmp_path: Path) -> None:
    images = write_jhmdb(tmp_path) / "Rename_Images"
    write_pictures(images / "juggle/some_video", JUMP.pictures()[:1])
    write_pictures(images / "walk" / WAVE.video, JUMP.pictures()[:1])
    write_pictures(images / "walk/a_gap", JUMP.pictures()[:2], first=2)
    (images / "walk/empty").mkdir()
    (images / "walk/.hidden").mkdir()
    rows, bad = JHMDBRelease(tmp_path).clips()
    assert [(row.video, row.path.parent.name) for row in rows] == [(JUMP.video, "jump"), (WAVE.video, "walk")]
    assert bad.keys() == {"Rename_Images/juggle", f"wave/{WAVE.video}", "walk/a_gap", "walk/empty"}
    assert bad["walk/a_gap"] == "found 00002.png where 00001.png is expected" and "twice" in bad[f"wave/{WAVE.video}"]


def test_without_sentences_it_is_a_data_set_too(tmp_path: Path) -> None:
    release = JHMDBRelease(write_jhmdb(tmp_path, sentences=False))
    release.check()
    assert release.sentences() == ([], {})


def test_a_bad_row_of_the_sentences_costs_itself(tmp_path: Path) -> None:
    text = f'video_id,query\n{WAVE.video}," a  man, waving"\n../up,a man\n{JUMP.video}\n'
    (write_jhmdb(tmp_path) / "jhmdb_annotation.txt").write_text(text)
    rows, bad = JHMDBRelease(tmp_path).sentences()
    assert rows == [(WAVE.video, 0, "a man, waving")]
    assert bad.keys() == {"jhmdb_annotation.txt:3", "jhmdb_annotation.txt:4"}


def test_without_a_single_clip_there_is_an_error_that_shows_the_layout(tmp_path: Path) -> None:
    (tmp_path / "Rename_Images/jump").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"<action>/<video>/<frame>\.png"):
        JHMDBRelease(tmp_path).clips()


def test_the_public_list_of_samples_has_no_other_sampling() -> None:
    with pytest.raises(ValueError, match="sampling"):
        Parameters.model_validate({"sampling": "random"})
    with pytest.raises(ValueError, match="split"):
        Parameters(split=4)
