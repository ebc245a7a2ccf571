"""The data set as stages see it: what can't be used is left out with its reason, and counted as promised."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.base import split_labels
from stages.core import items, schemas
from stages.core.batches import windows
from stages.core.datasets import dataset
from stages.core.datasets.labels import IGNORE
from stages.core.packs import frames
from tests.help import make


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace whose stages up to optical flow have run."""
    folder = tmp_path_factory.mktemp("workspace")
    make.write_release(folder / "data/raw")
    with make.workspace(folder):
        yield make.run_to_flow(folder)


def write_manifest(folder: Path, names: list[str]) -> Path:
    """A stage's output folder that holds ``names`` only."""
    rows = [{"item": name, "key": "", "file": ""} for name in names]
    schemas.write_parquet(folder / "manifest.parquet", schemas.rows_to_table(rows, schemas.MANIFEST))
    return folder


def test_the_splits_hold_their_own_clips_and_nothing_is_missing(data: Path) -> None:
    train, test = (dataset.load(data / "index", data / "frames", split=split) for split in ("train", "test"))
    assert [(frame.video, frame.frame) for frame in train.frames] == [
        ("--first_one", 2), ("--first_one", 6), ("-second_one", 2), ("-second_one", 6),
    ]  # fmt: skip
    assert train.videos == ["--first_one", "-second_one"] and test.videos == ["third_in_it"]
    assert train.promised == 4 and test.promised == 2 and not train.missing and not test.missing
    assert train.annotated("--first_one") == [2, 6]


def test_a_window_holds_frames_labels_and_flow_of_the_same_moments(data: Path) -> None:
    samples = dataset.load(data / "index", data / "frames", split="train", flow=data / "optical_flow/dis-forward")
    window = windows.read(samples, "--first_one", [5, 6, 7])
    square = make.RELEASE[0]
    assert window.frames.shape == (3, make.HEIGHT, make.WIDTH, 3) and window.flow is not None
    for position, number in enumerate((5, 6, 7)):
        inside = square.mask(number)
        reddish = window.frames[position][..., 0].astype(int) - window.frames[position][..., 1] > 60
        assert (reddish == inside).mean() > 0.97
        assert np.median(window.flow[position][inside], axis=0) == pytest.approx(square.speed, abs=0.5)
    assert np.array_equal(window.labels[1], np.where(square.mask(6), 17, 0))


def test_frames_that_nobody_annotated_are_unlabelled_not_background(data: Path) -> None:
    samples = dataset.load(data / "index", data / "frames", split="train")
    window = windows.read(samples, "--first_one", [1, 2, 3])
    assert (window.labels[[0, 2]] == IGNORE).all() and set(np.unique(window.labels[1])) == {0, 17}
    assert (windows.read(samples, "--first_one", [1, 2, 3], labelled=False).labels == IGNORE).all()
    assert window.flow is None


def test_a_window_beyond_the_clip_repeats_its_edge_without_repeating_its_labels(data: Path) -> None:
    samples = dataset.load(data / "index", data / "frames", split="train", flow=data / "optical_flow/dis-forward")
    window = windows.read(samples, "--first_one", [-2, -1, 0, 12])
    assert window.flow is not None
    for array in (window.frames, window.flow):
        assert np.array_equal(array[0], array[2]) and np.array_equal(array[1], array[2])
    assert np.array_equal(window.frames[3], windows.read(samples, "--first_one", [11]).frames[0])
    assert (window.labels == IGNORE).all()


def test_a_clip_that_could_not_be_decoded_is_missing_and_still_promised(data: Path, tmp_path: Path) -> None:
    frames = write_manifest(tmp_path / "frames", ["--first_one"])
    (frames / "clips").symlink_to(data / "frames/clips")
    samples = dataset.load(data / "index", frames, split="train")
    assert samples.videos == ["--first_one"] and samples.promised == 4
    assert dict(samples.missing) == {
        "-second_one/00003": "its clip could not be decoded", "-second_one/00007": "its clip could not be decoded",
    }  # fmt: skip


def test_a_clip_without_flow_is_missing_only_where_flow_is_asked_for(data: Path, tmp_path: Path) -> None:
    flow = write_manifest(tmp_path / "flow", ["-second_one"])
    with_flow = dataset.load(data / "index", data / "frames", split="train", flow=flow)
    assert set(with_flow.missing) == {"--first_one/00003", "--first_one/00007"}
    assert set(with_flow.missing.values()) == {"its clip has no optical flow"}
    assert not dataset.load(data / "index", data / "frames", split="train").missing


def test_an_annotation_past_the_last_decoded_frame_is_missing(data: Path, tmp_path: Path) -> None:
    frames = write_manifest(tmp_path / "frames", ["--first_one", "-second_one"])
    for square in make.RELEASE[:2]:
        count = 5 if square.video == "--first_one" else 12
        make.pack_frames(frames / "clips" / f"{square.video}.arrow", square.pictures()[:count])
    samples = dataset.load(data / "index", frames, split="train")
    assert dict(samples.missing) == {"--first_one/00007": "past the clip's last decoded frame"}
    assert len(samples.frames) == 3


def test_labels_of_another_size_than_their_frames_are_missing_and_stop_no_training(data: Path, tmp_path: Path) -> None:
    frames = write_manifest(tmp_path / "frames", ["--first_one", "-second_one"])
    for square in make.RELEASE[:2]:
        pictures = square.pictures()
        smaller = square.video == "--first_one"
        make.pack_frames(frames / "clips" / f"{square.video}.arrow", pictures[:, :-8, :-10] if smaller else pictures)
    samples = dataset.load(data / "index", frames, split="train")
    assert set(samples.missing) == {"--first_one/00003", "--first_one/00007"}
    for frame in samples.frames:
        assert windows.read(samples, frame.video, [frame.frame]).labels.shape == (1, make.HEIGHT, make.WIDTH)


def test_stages_that_have_not_run_are_an_error_that_says_what_to_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dvc repro"):
        dataset.load(data / "index", tmp_path, split="train")


def test_a_table_of_another_layout_is_an_error(tmp_path: Path) -> None:
    schemas.write_parquet(
        tmp_path / "t.parquet", schemas.rows_to_table([{"item": "a", "reason": "b"}], schemas.QUARANTINE)
    )
    with pytest.raises(ValueError, match="not the table expected"):
        schemas.read_parquet(tmp_path / "t.parquet", schemas.MANIFEST)


def test_one_more_clip_computes_one_clip_in_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make.write_release(tmp_path / "data/raw", make.RELEASE[:2])
    with make.workspace(tmp_path):
        make.run_to_flow(tmp_path)
        make.write_release(tmp_path / "data/raw", make.RELEASE)
        capsys.readouterr()
        make.run_to_flow(tmp_path)
    printed = capsys.readouterr().out
    for stage in ("index", "frames", "optical_flow-dis-forward"):
        assert f"{stage}: 3 items, 1 computed, 2 reused, 0 in quarantine" in printed


def test_every_packed_clip_is_named_by_the_manifest_and_readable(data: Path) -> None:
    for name in items.read_manifest(data / "frames"):
        assert len(frames.Clip(data / "frames" / "clips" / f"{name}.arrow")) == 12


def test_sentences_are_samples_of_the_frames_in_which_their_instance_is(data: Path) -> None:
    samples = dataset.load(data / "index", data / "frames", split="train")
    asked = samples.sentences
    assert [(one.video, one.frame, one.instance) for one in asked] == [
        ("--first_one", 2, 0), ("--first_one", 6, 0), ("-second_one", 2, 0), ("-second_one", 6, 0),
    ]  # fmt: skip
    read = windows.read_sentence(samples, asked[1], [5, 6, 7])
    assert read.sentence == "a square is moving" and read.mask is not None
    assert np.array_equal(read.mask[1], make.RELEASE[0].mask(6))
    assert (read.mask[[0, 2]] == IGNORE).all()


def test_the_actors_of_a_frame_are_the_masks_of_its_instances(data: Path) -> None:
    samples = dataset.load(data / "index", data / "frames", split="test")
    (mask,) = samples.actors("third_in_it", 6)
    assert np.array_equal(mask, make.RELEASE[2].mask(6))


def test_of_an_actor_held_out_labels_tell_who_is_there_and_not_what_it_does(data: Path) -> None:
    """Clip 1 shows adult-running (17), clip 2 cat-rolling (66)."""
    samples = dataset.hold_out(dataset.load(data / "index", data / "frames", split="train"), "adult")
    assert set(np.unique(samples.labels("--first_one", 6))) == {0, 10}
    assert set(np.unique(samples.labels("-second_one", 6))) == {0, 66}
    actor, action = split_labels(torch.from_numpy(samples.labels("--first_one", 6)), stride=10)
    assert set(actor.unique().tolist()) == {0, 1} and set(action.unique().tolist()) == {0, IGNORE}


def test_an_actor_that_does_not_exist_can_not_be_held_out(data: Path) -> None:
    with pytest.raises(ValueError, match=r"no actor `horse`.*adult, baby"):
        dataset.hold_out(dataset.load(data / "index", data / "frames", split="train"), "horse")
