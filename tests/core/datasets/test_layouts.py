"""Every layout goes the whole way: the same stages, tables and windows; where there are labels, a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models import deeplab
from models.parts import resnet
from stages import evaluate as evaluate_stage
from stages import train as train_stage
from stages.core import items, runs
from stages.core.batches import window_batches, windows
from stages.core.datasets import a2d, dataset, jhmdb, layouts
from stages.core.datasets.labels import A2D, IGNORE, JHMDB, VIDOR, LabelSpace
from stages.core.scores import segmentation
from tests.help import make, make_datasets

TINY = replace(
    deeplab.small, encoder=resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False), height=None, crop=(32, 40)
)
SPLITS = {"jhmdb": jhmdb.Parameters(split=1)}


@pytest.mark.parametrize(
    ("write", "layout", "space", "parameters"),
    [
        (make.write_release, "a2d", A2D, {}),
        (make_datasets.write_jhmdb, "jhmdb", JHMDB, SPLITS),
        (make_datasets.write_davis, "davis", A2D, {}),
    ],
)
def test_a_method_is_trained_and_scored_on_every_layout_that_tells_who_does_what(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], Path],
    layout: str,
    space: LabelSpace,
    parameters: dict[str, Any],
) -> None:
    write(tmp_path / "data/raw")
    monkeypatch.setattr(deeplab, "small", TINY)
    run = runs.Run("deeplab-rgb-full-0", "deeplab", "rgb", "full", 0, None)
    common = train_stage.Common(
        config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=0, word_vectors="none"
    )
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path, **parameters)
        assert dataset.read_description(data / "index") == dataset.Description(layout, space)
        train_stage.run(
            run, common, train_stage.Method(steps=2, batch=2), dataset_name="squares", data=data, output=data / "train"
        )
        settings = segmentation.Parameters(resamples=5, seed=0, non_boundary=15)
        result = evaluate_stage.run(run, settings, data=data, output=data / "evaluate")
    promised = dataset.load(data / "index", data / "frames", split="test").promised
    assert result["coverage"] == {"scored": promised, "of": promised, "clips": 1}
    weights = torch.load(data / "train/deeplab-rgb-full-0/model.pt", weights_only=True)
    assert len(weights["action.branches.0.bias"]) == len(space.actions)


def test_a_run_that_learned_other_labels_is_not_scored_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deeplab, "small", TINY)
    run = runs.Run("deeplab-rgb-full-0", "deeplab", "rgb", "full", 0, None)
    make_datasets.write_davis(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        (data / "train" / run.name).mkdir(parents=True)
        (data / "train" / run.name / "model.pt").write_bytes(b"")
        (data / "train" / run.name / "run.json").write_text('{"label_space": "jhmdb"}')
        settings = segmentation.Parameters(resamples=5, seed=0, non_boundary=15)
        with pytest.raises(ValueError, match=r"learned the labels of `jhmdb`.*those of `a2d`; train it again"):
            evaluate_stage.run(run, settings, data=data, output=data / "evaluate")


@pytest.mark.parametrize("method", ["deeplab", "sentence"])
def test_a_run_that_is_not_trained_is_not_scored_but_told_how(tmp_path: Path, method: str) -> None:
    run = runs.Run(f"{method}-rgb-full-0", method, "rgb", "full", 0)
    make.write_release(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        data = make.run_to_frames(tmp_path)
        settings = segmentation.Parameters(resamples=5, seed=0, non_boundary=15)
        with pytest.raises(ValueError, match=rf"model\.pt not found: run `dvc repro train@{run.name}`"):
            evaluate_stage.run(run, settings, data=data, output=data / "evaluate")
    assert not (data / "evaluate").exists()


def test_windows_of_vidor_hold_who_is_there_and_a_mask_for_each_thing_that_is_done(tmp_path: Path) -> None:
    """Frame 8 of the training clip: the dog chases, the child watches; both stand in the labels as objects."""
    make_datasets.write_vidor(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        samples = dataset.load(data / "index", data / "frames", split="train")
    assert samples.label_space is VIDOR
    first = samples.frames[0]
    read = windows.read(samples, first.video, [first.frame])
    dog, child = VIDOR.actors.index("dog"), VIDOR.actors.index("child")
    assert {dog, child} <= set(np.unique(read.labels)) <= {0, dog, child}
    assert read.actions is not None and read.actions.shape == (1, len(VIDOR.actions), make.HEIGHT, make.WIDTH)
    done = {VIDOR.actions[action] for action in np.flatnonzero(read.actions[0].any((1, 2)))}
    assert done == {"chase", "watch"}
    batch = window_batches.to_batch([read], encoding="clipped")
    assert batch["actions"].shape == (1, 1, len(VIDOR.actions), make.HEIGHT, make.WIDTH)


def test_of_plain_clips_every_one_is_decoded_and_gets_flow_and_none_is_annotated(tmp_path: Path) -> None:
    make_datasets.write_clips(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        samples = dataset.load(data / "index", data / "frames", split="test")
        decoded, with_flow = (
            set(items.read_manifest(data / folder)) for folder in ("frames", "optical_flow/dis-forward")
        )
    assert decoded == with_flow == {"holiday", "2024__beach__dog.1", "2024__garden"}
    assert samples.frames == () and samples.promised == 0


def test_sentences_of_jhmdb_are_samples_of_its_three_frames(tmp_path: Path) -> None:
    make_datasets.write_jhmdb(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        samples = dataset.load(data / "index", data / "frames", split="test")
    assert len(samples.sentences) == 2 * 3
    asked = samples.sentences[0]
    read = windows.read_sentence(samples, asked, [asked.frame])
    assert read.mask is not None and np.array_equal(read.mask == 1, read.labels > 0)


@pytest.mark.needs_shared
def test_real_clips_in_davis_s_layout_read_as_in_a2d_s(tmp_path: Path, shared: Path) -> None:
    """Two real clips as pictures and masks of instances: the same label maps and instances as from the release."""
    release = a2d.A2DRelease(shared / "data/a2d-davis")
    rows, _ = release.clips()
    chosen = [row for row in rows if row.video in {"dog_DAVIS16", "-hike_DAVIS"}]
    raw = tmp_path / "data/raw"
    labels = ["video,instance,label\n"]
    for row in chosen:
        with_frames = cv2.VideoCapture(str(release.folder / row.path))
        folder = raw / "JPEGImages" / row.video
        folder.mkdir(parents=True)
        for number in range(10_000):
            known, picture = with_frames.read()
            if not known:
                break
            assert cv2.imwrite(str(folder / f"{number:05d}.jpg"), picture)
        for frame, annotation in release.annotations(row):
            assert not isinstance(annotation, str)
            ids = np.zeros(annotation.labels.shape, np.uint8)
            for position, mask in enumerate(annotation.masks):
                ids[mask] = position + 1
                joint = int(annotation.actors[position]) * A2D.stride + annotation.actions[position][0]
                line = f"{row.video},{position + 1},{A2D.name(joint)}\n"
                labels += [line] if line not in labels else []
            make_datasets.write_indexed_png(raw / "Annotations" / row.video / f"{frame:05d}.png", ids)
    (raw / "labels.csv").write_text("".join(labels))
    layout, davis = layouts.open_release(raw, layouts.Parameters(dataset="davis"))
    assert layout == "davis"
    for row in davis.clips()[0]:
        (original,) = (one for one in chosen if one.video == row.video)
        read, expected = (dict(reader.annotations(one)) for reader, one in ((davis, row), (release, original)))
        assert read.keys() == expected.keys() and len(read) >= 3
        for frame, annotation in read.items():
            known = expected[frame]
            assert not isinstance(annotation, str) and not isinstance(known, str)
            assert (annotation.labels == known.labels).mean() > 0.999  # where instances overlap the order may differ
            assert (annotation.labels != IGNORE).all() and len(annotation.masks) == len(known.masks)
