"""Scores of videos: clips end to end, their mean, the pack, the table of a run, the score with its coverage."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from models import video_classifier
from models.parts import convolutions, i3d
from stages.core import items, numerics, runs, schemas
from stages.core.batches import windows
from stages.core.datasets import dataset
from stages.core.datasets.labels import A2D, JHMDB, LabelSpace
from stages.core.inference import predictor as predictors
from stages.core.inference import video_scores
from stages.core.scores import classification, segmentation
from stages.core.training import loop
from tests.help import make
from tests.help.faulty_kernels import with_amx

RUN = runs.Run("video_classifier-rgb+flow-full-0", "video_classifier", "rgb+flow", "full", 0)
LENGTH = 4
FIRST = make.Square("--first", label=36, split="test", frames=10)
SECOND = make.Square("second", label=79, split="test", frames=3, annotated=(1,), colour=(60, 80, 230))
SQUARES = (make.RELEASE[0], FIRST, SECOND)
DRAWS = segmentation.Parameters(resamples=5, seed=0, non_boundary=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace with a classifier that has learned nothing."""
    folder = tmp_path_factory.mktemp("scores")
    make.write_release(folder / "data/raw", SQUARES)
    threads = torch.get_num_threads()
    tiny = replace(
        video_classifier.small, encoder=replace(i3d.SMALL, width=0.07), test_frames=LENGTH, height=32, crop=None
    )
    with make.workspace(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_classifier, "small", tiny)
        data = make.run_to_flow(folder)
        torch.manual_seed(0)
        save(data, video_classifier.build(tiny, A2D))
        yield data
    torch.set_num_threads(threads)


def save(data: Path, network: torch.nn.Module) -> None:
    """``network`` where a training of ``RUN`` would have left it."""
    loop.save_weights(data / "train" / RUN.name / "model.pt", network)
    content = {"method": RUN.method, "inputs": RUN.inputs, "variant": RUN.variant, "label_space": "a2d"}
    content |= {"parameters": {"common": {"config": "small"}}}  # type: ignore[dict-item]
    (data / "train" / RUN.name / "run.json").write_text(json.dumps(content))


@pytest.fixture
def samples(data: Path) -> dataset.Dataset:
    return dataset.load(data / "index", data / "frames", split="test", flow=data / "optical_flow/dis-forward")


def argument(data: Path, samples: dataset.Dataset, square: make.Square) -> Mapping[str, Any]:
    (item,) = [item for item in predictors.clip_items(RUN, samples, data) if item.name == square.video]
    return item.argument  # type: ignore[no-any-return]


def scored(argument: Mapping[str, Any], target: Path, precision: str = "float32") -> np.ndarray:
    """The row of a clip's pack."""
    video_scores.score_clip(argument, {"precision": precision}, target)
    pack = schemas.Pack(target)
    assert len(pack) == 1 and pack.column(0, "video")[0].as_py() == argument["video"]
    return np.array(pack.column(0, "scores")[0].as_py(), np.float32)


class Telling:
    """A network that scores a clip by what it is told to do with it, and keeps what it was shown."""

    def __init__(self, says: Callable[[Any], torch.Tensor]) -> None:
        self.shown: list[Any] = []
        self._says = says

    def scores(self, batch: Any) -> torch.Tensor:
        self.shown.append(batch)
        return self._says(batch)


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Telling]:
    """Puts a network in the place of the trained one."""

    def put(says: Callable[[Any], torch.Tensor], *, height: int | None = None) -> Telling:
        network = Telling(says)
        config = SimpleNamespace(test_frames=LENGTH, height=height, flow_encoding="clipped")
        predictor = predictors.Predictor(network, config, A2D, torch.device("cpu"))
        monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor)
        return network

    return put


# One clip


def test_clips_lie_end_to_end_with_their_flow_one_at_a_time_and_a_short_video_starts_again(
    data: Path, samples: dataset.Dataset, tmp_path: Path, telling: Callable[..., Telling]
) -> None:
    for square, expected in ((FIRST, [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]), (SECOND, [[0, 1, 2, 0]])):
        network = telling(lambda batch: torch.zeros(len(batch["frames"]), 43))
        scored(argument(data, samples, square), tmp_path / "pack")
        assert len(network.shown) == len(expected)
        for shown, numbers in zip(network.shown, expected, strict=True):
            clip = windows.read(samples, square.video, numbers)
            assert clip.flow is not None
            assert np.array_equal(shown["frames"].numpy(), clip.frames[None])
            assert np.array_equal(shown["flow"].numpy(), clip.flow[None] / 20)


def test_whole_frames_are_resized_to_the_height(
    data: Path, samples: dataset.Dataset, tmp_path: Path, telling: Callable[..., Telling]
) -> None:
    network = telling(lambda batch: torch.zeros(1, 43), height=24)
    scored(argument(data, samples, SECOND), tmp_path / "pack")
    assert network.shown[0]["frames"].shape == (1, LENGTH, 24, 32, 3)
    assert network.shown[0]["flow"].shape == (1, LENGTH, 24, 32, 2)


def test_a_video_s_scores_are_the_mean_over_its_clips_in_float32(
    data: Path, samples: dataset.Dataset, tmp_path: Path, telling: Callable[..., Telling]
) -> None:
    clips = iter([0.5, 0.25, 0.0078125])
    telling(lambda _: torch.full((1, 43), next(clips), dtype=torch.bfloat16) * torch.arange(43).eq(7))
    found = scored(argument(data, samples, FIRST), tmp_path / "pack")
    assert found[7] == np.float32((0.5 + 0.25 + 0.0078125) / 3) and np.flatnonzero(found).tolist() == [7]


def test_the_trained_network_s_scores_are_packed(data: Path, samples: dataset.Dataset, tmp_path: Path) -> None:
    given = argument(data, samples, SECOND)
    predictor = predictors.load_predictor(Path(given["run"]), given["weights"])
    expected = predictor.network.scores(predictor.batch([windows.read(samples, SECOND.video, [0, 1, 2, 0])]))[0]
    found = scored(given, tmp_path / "pack")
    assert np.array_equal(found, expected.numpy()) and ((found > 0) & (found < 1)).all()


def test_networks_compute_in_the_precision_that_is_asked_for(
    data: Path, samples: dataset.Dataset, tmp_path: Path
) -> None:
    given = argument(data, samples, FIRST)
    exact, rough = (scored(given, tmp_path / name, name) for name in ("float32", "bfloat16"))
    assert not np.array_equal(exact, rough) and np.abs(exact - rough).max() < 0.05


def test_a_processor_with_amx_scores_right_though_its_kernels_are_wrong(
    data: Path, samples: dataset.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.13's fault with amx_bf16, replayed: NaN, without a word, where nobody looks after the kernels."""
    given = argument(data, samples, FIRST)
    exact = scored(given, tmp_path / "exact")
    predictors.load_predictor.cache_clear()  # it has found this machine's own kernels right
    monkeypatch.setattr(items, "CACHE", tmp_path / ".items")
    monkeypatch.setattr(numerics, "look", convolutions.fault)  # in this process, where the stand-in is
    with with_amx() as amx:
        rough = scored(given, tmp_path / "rough", "bfloat16")
    assert amx.times and np.abs(exact - rough).max() < 0.05
    assert all("bfloat16" in says for says in numerics.known().wrong) and numerics.known().wrong
    predictors.load_predictor.cache_clear()
    monkeypatch.setattr(numerics, "verdict", lambda asked: "")
    where = re.escape(f"{RUN.name}, clip `--first`: scores that are not finite; layer `streams.rgb.encoder.Mixed_")
    with with_amx(), pytest.raises(FloatingPointError, match=where):
        scored(given, tmp_path / "spoilt", "bfloat16")


# All clips of a run


@pytest.fixture(scope="module")
def predictions(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stage `evaluate` makes of the items."""
    output = tmp_path_factory.mktemp("predictions")
    samples = dataset.load(data / "index", data / "frames", split="test", flow=data / "optical_flow/dis-forward")
    work = predictors.clip_items(RUN, samples, data)
    items.run("scores", video_scores.score_clip, work, parameters=make.FLOAT32, libraries=["torch"], output=output)
    return output


def test_a_run_s_scores_are_one_table_that_files_of_scores_are_read_as(
    data: Path, predictions: Path, tmp_path: Path
) -> None:
    table = video_scores.collect(predictions, [SECOND.video, FIRST.video])
    assert table["video"].to_pylist() == [SECOND.video, FIRST.video] and table.schema.equals(schemas.VIDEO_SCORES)
    schemas.write_parquet(tmp_path / "s.parquet", table)
    found = classification.load_scores(tmp_path / "s.parquet")
    samples = dataset.load(data / "index", data / "frames", split="test", flow=data / "optical_flow/dis-forward")
    for square in (FIRST, SECOND):
        assert np.array_equal(found[square.video], scored(argument(data, samples, square), tmp_path / "pack"))


def test_a_video_in_quarantine_has_no_row_and_a_run_without_any_still_has_a_table(predictions: Path) -> None:
    assert video_scores.collect(predictions, ["elsewhere", FIRST.video])["video"].to_pylist() == [FIRST.video]
    assert video_scores.collect(predictions, ["elsewhere"]).equals(schemas.VIDEO_SCORES.empty_table())


# Score


def write_scores(path: Path, best: Mapping[str, int], labels: LabelSpace = A2D) -> Path:
    """Scores of videos, each the highest for one pair."""
    rows = [
        {"video": video, "scores": [0.9 if pair == shown else 0.1 for pair in labels.valid_ids[1:]]}
        for video, shown in best.items()
    ]
    schemas.write_parquet(path, schemas.rows_to_table(rows, schemas.VIDEO_SCORES))
    return path


def test_the_score_is_that_of_classification_and_the_coverage_counts_videos(data: Path, tmp_path: Path) -> None:
    path = write_scores(tmp_path / "s.parquet", {FIRST.video: 36, SECOND.video: 36})
    found = video_scores.score(data / "index", path, DRAWS)
    assert found["coverage"] == {"scored": 2, "of": 2, "clips": 2}
    assert found["classification"] == classification.run(data / "index", path, parameters=DRAWS)
    assert found["classification"]["mean_average_precision"] == pytest.approx((50 + 50) / 2)
    assert set(found) == {"classification", "coverage"}


def test_a_video_without_scores_lowers_the_coverage_and_no_score(data: Path, tmp_path: Path) -> None:
    """What is left shows the last pair alone: there is one clip, and one pair that counts."""
    found = video_scores.score(data / "index", write_scores(tmp_path / "s.parquet", {SECOND.video: 79}), DRAWS)
    assert found["coverage"] == {"scored": 1, "of": 2, "clips": 1}
    assert found["classification"]["mean_average_precision"] == 100 and found["classification"]["pairs"] == 1
    with pytest.raises(ValueError, match="nothing can be scored"):
        video_scores.score(data / "index", write_scores(tmp_path / "none.parquet", {}), DRAWS)


def test_pairs_are_those_of_the_data_set_that_was_indexed(data: Path, tmp_path: Path) -> None:
    for table in ("frames", "instances"):
        (tmp_path / f"{table}.parquet").write_bytes((data / f"index/{table}.parquet").read_bytes())
    dataset.write_description(tmp_path, dataset.Description("jhmdb", JHMDB))
    path = write_scores(tmp_path / "s.parquet", {FIRST.video: 23, SECOND.video: 24}, JHMDB)
    found = video_scores.score(tmp_path, path, DRAWS)
    assert found["coverage"]["scored"] == 2
    with pytest.raises(ValueError, match="21 finite scores are needed"):
        video_scores.score(tmp_path, write_scores(tmp_path / "s.parquet", {FIRST.video: 36}), DRAWS)


def test_where_no_video_shows_a_pair_there_is_no_score_and_no_error(data: Path, tmp_path: Path) -> None:
    rows = schemas.read_parquet(data / "index/instances.parquet", schemas.INSTANCES).to_pylist()
    untold = schemas.rows_to_table([row | {"actions": []} for row in rows], schemas.INSTANCES)
    schemas.write_parquet(tmp_path / "instances.parquet", untold)
    (tmp_path / "frames.parquet").write_bytes((data / "index/frames.parquet").read_bytes())
    dataset.write_description(tmp_path, dataset.Description("a2d", A2D))
    found = video_scores.score(tmp_path, write_scores(tmp_path / "s.parquet", {FIRST.video: 36}), DRAWS)
    assert np.isnan(found["classification"]["mean_average_precision"]) and found["classification"]["pairs"] == 0
