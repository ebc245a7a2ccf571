"""What was trained on one data set's sentences, asked those of another: the miniature, its preparation, the scores."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from models import sentence
from models.base import Window
from stages import frames as frames_stage
from stages import miniature as miniature_stage
from stages import optical_flow as flow_stage
from stages import train as train_stage
from stages import transfer as transfer_stage
from stages import transfer_data as data_stage
from stages.core import items, runs, schemas
from stages.core.batches import words
from stages.core.datasets import dataset, jhmdb, layouts
from stages.core.datasets.labels import A2D, JHMDB
from stages.core.generator.jhmdb import CLASSES, LEAST_VISIBLE, MiniatureClip, miniature_clips, write_miniature
from stages.core.generator.sentences import VERBS
from stages.core.inference import predictor as predictors
from stages.core.scores import resampling, segmentation
from tests.help import make
from tests.help.make_datasets import JHMDB as JHMDB_SQUARES
from tests.help.make_datasets import write_jhmdb

METHODS = transfer_stage.Parameters(methods=("sentence", "li2017"))
SCORING = segmentation.Parameters(resamples=20, seed=0, non_boundary=15)
ENCODING = frames_stage.Parameters(encoding="png", quality=95)
FLOW = flow_stage.Parameters(recipes={}, dis=flow_stage.Dis(preset="ultrafast"), height=None, quantum=0.0625)


def prepared(folder: Path, *, recipes: tuple[str, ...] = (), **choices: Any) -> data_stage.Parameters:
    return data_stage.Parameters(dataset="squares", folder=folder, jhmdb=jhmdb.Parameters(**choices), recipes=recipes)


# The miniature


@pytest.fixture(scope="module")
def planned() -> list[MiniatureClip]:
    return [replace(clip, height=48) for clip in miniature_clips(15, seed=3)]


@pytest.fixture(scope="module")
def release(planned: list[MiniatureClip], tmp_path_factory: pytest.TempPathFactory) -> jhmdb.JHMDBRelease:
    folder = tmp_path_factory.mktemp("miniature")
    write_miniature(folder, planned)
    return jhmdb.JHMDBRelease(folder)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def person(release: jhmdb.JHMDBRelease, clip: MiniatureClip) -> np.ndarray:
    """(T, H, W) bool, as the file has it."""
    return jhmdb.read_masks(release.folder / jhmdb.MASKS_FOLDER / clip.action / clip.video / "puppet_mask.mat")


def test_the_reader_finds_every_clip_and_nothing_to_complain_of(
    planned: list[MiniatureClip], release: jhmdb.JHMDBRelease
) -> None:
    layout, reader = layouts.open_release(release.folder, layouts.Parameters(dataset="miniature"))
    rows, bad = reader.clips()
    assert layout == "jhmdb" and bad == {}
    assert {row.video: row.frames for row in rows} == {clip.video: clip.frames for clip in planned}
    assert {row.path.parent.name for row in rows} == set(CLASSES) and {row.split for row in rows} == {"test"}
    for row in rows:
        read = dict(reader.annotations(row))
        assert len(read) == 3
        for annotation in read.values():
            assert not isinstance(annotation, str) and annotation.instances.tolist() == [0]
            assert annotation.actions == ((JHMDB.actions.index(row.path.parent.name),),)
    spoken, bad = reader.sentences()
    assert bad == {} and [video for video, _, _ in spoken] == [clip.video for clip in planned]


@pytest.mark.parametrize("split", [1, 2, 3])
def test_a_third_of_each_class_is_a_test_clip_in_one_official_split(release: jhmdb.JHMDBRelease, split: int) -> None:
    chosen = jhmdb.JHMDBRelease(release.folder, jhmdb.Parameters(split=split))
    chosen.check()
    rows, bad = chosen.clips()
    tested = [row.path.parent.name for row in rows if row.split == "test"]
    assert bad == {} and tested == sorted(CLASSES) and len(rows) == 15
    assert next(row.video for row in rows if row.split == "test").endswith(f"_{5 * (split - 1):03d}")


def test_the_fixed_samples_are_frames_of_the_clips_that_they_name(
    planned: list[MiniatureClip], release: jhmdb.JHMDBRelease
) -> None:
    samples = json.loads((release.folder / jhmdb.SAMPLES).read_text())
    for video, picture, mask, frames, _ in samples:
        for path in (picture, mask):
            assert (release.folder / Path(path).relative_to("jhmdb_sentences")).is_file()
        assert {clip.video: clip.frames for clip in planned}[video] == frames
    fixed = jhmdb.JHMDBRelease(release.folder, jhmdb.Parameters(sampling="fixed"))
    fixed.check()
    rows, bad = fixed.clips()
    assert bad == {} and [row.annotated for row in rows] == [3] * 15
    assert sorted(fixed.sentences()[0]) == sorted(release.sentences()[0])


def test_masks_are_those_of_the_one_who_does_what_the_folder_says(
    planned: list[MiniatureClip], release: jhmdb.JHMDBRelease
) -> None:
    assert {len(clip.labels) for clip in planned} == {1, 2, 3}, "some are alone, some are not"
    for clip in planned[::3]:
        made, masks = clip.make(), person(release, clip)
        assert np.array_equal(masks, made.masks[:, 0]) and masks.mean((1, 2)).min() > 0.5 * LEAST_VISIBLE
        assert clip.labels[0] == CLASSES[clip.action]
        assert {A2D.actors[label // A2D.stride] for label in clip.labels} == {"adult"}
        last = release.folder / jhmdb.IMAGES_FOLDER / clip.action / clip.video / f"{clip.frames:05d}.png"
        assert np.array_equal(cv2.imread(str(last))[..., ::-1], made.frames[-1])


def test_a_sentence_says_what_the_person_does_and_where(
    planned: list[MiniatureClip], release: jhmdb.JHMDBRelease
) -> None:
    said = {video: text for video, _, text in release.sentences()[0]}
    actions = {clip.video: A2D.actions[clip.labels[0] % A2D.stride] for clip in planned}
    places = {"on the left": (0, 0.45), "in the middle": (0.35, 0.65), "on the right": (0.55, 1)}
    seen = set()
    for clip in planned:
        told = said[clip.video]
        assert any(verb in told for verb in VERBS[actions[clip.video]])
        masks = person(release, clip)
        across = np.mean([np.nonzero(mask)[1].mean() for mask in masks]) / masks.shape[2]
        for words_of_place, (low, high) in places.items():
            if words_of_place in told:
                assert low < across < high, f"{clip.video}: {told}"
                seen.add(words_of_place)
    assert len(seen) > 1, "there is something to check"


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    planned: list[MiniatureClip], release: jhmdb.JHMDBRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.asctime", lambda *_: "another day")
    write_miniature(tmp_path, [replace(clip, height=48) for clip in miniature_clips(4, seed=3)])
    again, before = files_below(tmp_path), files_below(release.folder)
    assert before[jhmdb.SENTENCES].startswith(again.pop(jhmdb.SENTENCES))
    assert before[jhmdb.SAMPLES].startswith(again.pop(jhmdb.SAMPLES)[:-1])
    of_clips = {name: content for name, content in again.items() if not name.startswith(str(jhmdb.SPLITS_FOLDER))}
    assert of_clips and of_clips.items() <= before.items()
    others = miniature_clips(4, seed=4)
    assert not {clip.seed for clip in others} & {clip.seed for clip in planned}
    assert [clip.frames for clip in others] != [clip.frames for clip in planned[:4]]


def test_the_next_seed_takes_the_place_of_one_whose_person_is_hardly_seen_or_can_t_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unseen, seen = np.ones((2, 1, 48, 64), bool), np.ones((2, 1, 48, 64), bool)
    unseen[1, 0, 1:] = unseen[1, 0, :, 20:] = False  # 20 of 3072 pixels, in one frame
    made = [SimpleNamespace(masks=unseen, sentences=("a man",)), SimpleNamespace(masks=seen, sentences=(None,))]
    made.append(SimpleNamespace(masks=seen, sentences=("a man",)))
    tried: list[int] = []

    def make_next(clip: MiniatureClip) -> SimpleNamespace:
        tried.append(clip.seed)
        return made[len(tried) - 1]

    monkeypatch.setattr(MiniatureClip, "make", make_next)
    (clip,) = miniature_clips(1, seed=0)
    assert tried == [clip.seed - 2, clip.seed - 1, clip.seed]


def test_the_stage_writes_frames_of_j_hmdb_s_size_in_place_of_older_ones(tmp_path: Path) -> None:
    (tmp_path / "older").mkdir()
    miniature_stage.run(miniature_stage.Parameters(clips=1, seed=0), output=tmp_path)
    assert not (tmp_path / "older").exists()
    (picture,) = (tmp_path / jhmdb.IMAGES_FOLDER).rglob("00001.png")
    assert cv2.imread(str(picture)).shape == (240, 320, 3)


# Preparing a data set


def test_what_is_no_j_hmdb_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    make.write_release(tmp_path / "a2d", make.RELEASE[:1])
    for folder in (tmp_path / "a2d", tmp_path / "nowhere"):
        with pytest.raises(
            ValueError, match=r"transfer_data\.folder: .*not in the layout of J-HMDB(.|\n)*Rename_Images"
        ):
            data_stage.run(prepared(folder), ENCODING, FLOW, output=tmp_path / "new")
    write_jhmdb(tmp_path / "silent", sentences=False)
    with pytest.raises(
        ValueError, match=r"silent has no sentence; put jhmdb_annotation\.txt of J-HMDB Sentences there"
    ):
        data_stage.run(prepared(tmp_path / "silent"), ENCODING, FLOW, output=tmp_path / "new")
    with pytest.raises(ValueError, match=r"transfer_data\.folder: (.|\n)*splits/jump_test_split1\.txt"):
        (write_jhmdb(tmp_path / "unsplit") / "splits").rename(tmp_path / "elsewhere")
        data_stage.run(prepared(tmp_path / "unsplit", split=1), ENCODING, FLOW, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace with transfer_data of two clips; the masks of the second one end early."""
    folder = tmp_path_factory.mktemp("transfer")
    write_jhmdb(folder / "squares")
    with make.workspace(folder):
        data_stage.run(
            prepared(folder / "squares", recipes=("dis-forward",)), ENCODING, FLOW, output=folder / "data/transfer_data"
        )
        yield folder / "data"


def test_all_that_a_run_reads_of_a_clip_is_prepared_and_nothing_else_is_touched(data: Path) -> None:
    new = data / "transfer_data"
    assert [path.name for path in data.iterdir()] == ["transfer_data"]
    samples = dataset.load(new / "index", new / "frames", split="test", flow=new / "optical_flow/dis-forward")
    assert samples.label_space == JHMDB and samples.missing == {} and len(samples.sentences) == 6
    for folder in ("frames", "optical_flow/dis-forward"):
        assert set(items.read_manifest(new / folder)) == {square.video for square in JHMDB_SQUARES.values()}


def test_the_choices_that_j_hmdb_leaves_are_heeded(tmp_path: Path) -> None:
    write_jhmdb(tmp_path / "squares")
    with make.workspace(tmp_path):
        data_stage.run(prepared(tmp_path / "squares", frames=1, split=1), ENCODING, FLOW, output=tmp_path / "new")
        found = schemas.read_parquet(tmp_path / "new/index/frames.parquet", schemas.FRAMES).to_pylist()
    assert [row["split"] for row in found] == ["train", "test"]


def test_flow_of_a_network_is_that_of_the_trained_one(tmp_path: Path) -> None:
    write_jhmdb(tmp_path / "squares")
    parameters = prepared(tmp_path / "squares", recipes=("flownets-forward",))
    with make.workspace(tmp_path), pytest.raises(ValueError, match=r"elsewhere/flownets/model\.pt not found: run"):
        data_stage.run(parameters, ENCODING, FLOW, trained=tmp_path / "elsewhere", output=tmp_path / "new")


# Asking a trained run


class FirstFrames:
    """Answers any sentence with the upper half of the frame; keeps what it was shown."""

    def __init__(self) -> None:
        self.batches: list[dict[str, torch.Tensor]] = []

    def response(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N, H, W)"""
        self.batches.append(batch)
        height, width = batch["frames"].shape[2:4]
        response = torch.full((len(batch["words"]), height, width), -1.0)
        response[:, : height // 2] = 1
        return response


def run_of(inputs: str, recipe: str = "dis-forward") -> runs.Run:
    flow = Path("data/optical_flow") / recipe if "flow" in inputs else None
    return runs.Run(f"sentence-{inputs}-full-0", "sentence", inputs, "full", 0, flow=flow)


def no_vectors(source: str, *, sentences: Iterable[str]) -> words.Vectors:
    """Of no word."""
    assert source == "a file"
    return words.Vectors({}, frozenset(word for sentence in sentences for word in words.tokens(sentence)))


@pytest.fixture
def network(data: Path, monkeypatch: pytest.MonkeyPatch) -> FirstFrames:
    """A network in place of every trained run."""
    found = FirstFrames()
    config = SimpleNamespace(window=Window(before=1, after=1), height=None, flow_encoding="clipped")
    predictor = predictors.Predictor(found, config, A2D, torch.device("cpu"))
    monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor)
    monkeypatch.setattr(words, "vectors", no_vectors)
    for inputs in ("rgb", "rgb+flow"):
        trained = data / "train" / run_of(inputs).name
        trained.mkdir(parents=True, exist_ok=True)
        (trained / "model.pt").write_bytes(b"")
        learned = {"label_space": "a2d", "parameters": {"common": {"word_vectors": "a file"}}}
        (trained / "run.json").write_text(json.dumps(learned))
    return found


@pytest.mark.parametrize("inputs", ["rgb", "rgb+flow"])
def test_a_run_is_scored_on_the_other_data_set_s_sentences_and_sees_its_flow(
    data: Path, network: FirstFrames, inputs: str
) -> None:
    run = run_of(inputs)
    result = transfer_stage.run(METHODS, SCORING, [run], data=data, output=data / "transfer")[run.name]
    metrics = json.loads((data / "transfer" / run.name / "metrics.json").read_text())
    assert metrics == resampling.rounded(result) != result
    assert metrics["coverage"] == {"scored": 6, "of": 6, "clips": 2}
    found = []
    for square in JHMDB_SQUARES.values():
        for frame in jhmdb.middles(10 if square.video.startswith("#") else 12, 3):
            mask = square.mask(frame)
            half = np.zeros_like(mask)
            half[: make.HEIGHT // 2] = True
            found.append((mask & half).sum() / (mask | half).sum())
    assert metrics["sentences"]["mean_iou"] == pytest.approx(100 * np.mean(found), abs=0.01)
    assert {path.name for path in (data / "transfer" / run.name).iterdir()} == {"metrics.json", "predictions"}
    assert network.batches and all(("flow" in batch) == ("flow" in inputs) for batch in network.batches)


def test_what_was_trained_on_one_data_set_answers_about_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained for one step on squares in A2D's layout, tested on squares in J-HMDB's, with real words and flow."""
    run = run_of("rgb+flow")
    monkeypatch.setattr(sentence, "small", replace(sentence.small, height=32, crop=(32, 48)))
    monkeypatch.setattr("stages.core.tracking.live", make.no_mlflow)
    make.write_release(tmp_path / "data/raw")
    write_jhmdb(tmp_path / "squares")
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        common = train_stage.Common(
            config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=1e9, word_vectors=words.PACKAGE
        )
        method = train_stage.Method(steps=1, batch=1)
        train_stage.run(run, common, method, dataset_name="squares", data=data, output=data / "train")
        parameters = prepared(tmp_path / "squares", recipes=("dis-forward",))
        data_stage.run(parameters, ENCODING, FLOW, output=data / "transfer_data")
        result = transfer_stage.run(METHODS, SCORING, [run], data=data, output=data / "transfer")[run.name]
    assert result["coverage"] == {"scored": 6, "of": 6, "clips": 2} and result["unknown_words"] == {}
    assert 0 <= result["sentences"]["overall_iou_low"] <= result["sentences"]["overall_iou_high"] <= 100


def test_a_recipe_that_the_other_data_set_has_not_is_named(data: Path, network: FirstFrames) -> None:
    with pytest.raises(ValueError, match=r"learned from flow of tvl1-forward: add that to transfer_data\.recipes"):
        transfer_stage.run(METHODS, SCORING, [run_of("rgb+flow", "tvl1-forward")], data=data, output=data / "transfer")


def test_a_run_that_is_not_trained_says_what_to_run(data: Path) -> None:
    other = replace(run_of("rgb"), name="sentence-rgb-full-1", seed=1)
    with pytest.raises(ValueError, match=r"model\.pt not found: run `dvc repro train@sentence-rgb-full-1`"):
        transfer_stage.run(METHODS, SCORING, [other], data=data, output=data / "transfer")


def test_plain_runs_on_sentences_are_tested_and_no_others(data: Path, network: FirstFrames) -> None:
    others = [("deeplab", "full"), ("sentence", "fixed_vocabulary"), ("sentence", "lstm"), ("hu2016", "full")]
    listed = [runs.Run(f"{method}-rgb-{variant}-0", method, "rgb", variant, 0) for method, variant in others]
    assert transfer_stage.run(METHODS, SCORING, listed, data=data, output=data / "nothing") == {}
    assert pd.read_csv(data / "nothing" / transfer_stage.TESTED).empty
    found = transfer_stage.run(METHODS, SCORING, [*listed, run_of("rgb")], data=data, output=data / "transfer")
    assert list(found) == [run_of("rgb").name]
    (row,) = pd.read_csv(data / "transfer" / transfer_stage.TESTED).to_dict("records")
    assert row == {
        "run": run_of("rgb").name,
        "overall_iou": pytest.approx(found[run_of("rgb").name]["sentences"]["overall_iou"], abs=1e-3),
        "scored": 6,
        "of": 6,
    }


def test_a_method_that_takes_no_sentences_is_refused(data: Path) -> None:
    wrong = transfer_stage.Parameters(methods=("sentence", "ssa2d"))
    with pytest.raises(
        ValueError, match=r"transfer\.methods: ssa2d: no methods on sentences; hu2016, li2017, sentence"
    ):
        transfer_stage.run(wrong, SCORING, [], data=data, output=data / "transfer")
