"""Data in which an actor does several things at once (VidOR), through the stages: train, predict, score, report."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools import mask as coco

from benchmarks.workspace import CHECKOUT
from models import ssa2d
from models.base import MultiLabelPredictions
from stages import evaluate as evaluate_stage
from stages import report as report_stage
from stages import train as train_stage
from stages.core import runs, schemas
from stages.core.datasets.labels import VIDOR
from stages.core.inference import label_maps
from stages.core.inference import predictor as predictors
from stages.core.packs import masks as packed_masks
from stages.core.scores import action_masks, resampling, segmentation
from tests.help import make
from tests.help.make_datasets import VIDOR as SQUARES
from tests.help.make_datasets import write_vidor

RUN = runs.Run("ssa2d-rgb-full-0", "ssa2d", "rgb", "full", 0)
COMMON = train_stage.Common(
    config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=1e9, word_vectors="none"
)
METHOD = train_stage.Method(steps=2, batch=2)
PARAMETERS = segmentation.Parameters(resamples=20, seed=0, non_boundary=15)
TEST = SQUARES[1]
FRAMES = (8, 24)
"""Annotated, of the one test clip."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace whose one run, of smaller frames, was trained for two steps and evaluated; no MLflow."""
    folder = tmp_path_factory.mktemp("vidor")
    write_vidor(folder / "data/raw")
    threads = torch.get_num_threads()
    with make.workspace(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssa2d, "small", replace(ssa2d.small, height=40, crop=(40, 48)))
        patch.setattr("stages.core.tracking.live", make.no_mlflow)
        data = make.run_to_frames(folder)
        train_stage.run(RUN, COMMON, METHOD, dataset_name="squares", data=data, output=data / "train")
        evaluate_stage.run(RUN, PARAMETERS, data=data, output=data / "evaluate")
        yield data
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def metrics(data: Path) -> dict[str, Any]:
    return json.loads((data / "evaluate" / RUN.name / "metrics.json").read_text())


Pixels = tuple[np.ndarray, dict[int, np.ndarray]]
"""Actors (H, W), and where each action is done (H, W)."""


def truth(frame: int) -> Pixels:
    """A child in columns 10 to 29 and rows 20 to 39, which watches, under a dog, which chases up to frame 19."""
    child = np.zeros((make.HEIGHT, make.WIDTH), bool)
    child[20:40, 10:30] = True
    dog = TEST.mask(frame)
    names = {name: VIDOR.actors.index(name) for name in ("child", "dog")}
    actors = np.where(dog, names["dog"], np.where(child, names["child"], 0))
    done = {"watch": child} | ({"chase": dog} if frame < 20 else {})
    return actors, {VIDOR.actions.index(name): mask for name, mask in done.items()}


def predicted(data: Path, frame: int) -> Pixels:
    """What lies in the clip's pack."""
    pack = schemas.Pack(data / "evaluate" / RUN.name / "predictions/clips" / f"{TEST.video}.arrow")
    assert len(pack) == len(FRAMES)
    row = [pack.column(row, "frame")[0].as_py() for row in range(len(pack))].index(frame)
    size = [make.HEIGHT, make.WIDTH]
    masks = pack.column(row, "actions")[0].as_py()
    found = {one["action"]: coco.decode({"size": size, "counts": one["mask"]}).astype(bool) for one in masks}
    return packed_masks.decode(pack.column(row, "actor")[0].as_py()), found


def classes(pixels: Pixels, y: int, x: int) -> set[tuple[str, str]]:
    """(kind, name) of all that a pixel is: an actor, its actions, its pairs; without an action, background of both."""
    actor, actions = int(pixels[0][y, x]), [action for action, mask in pixels[1].items() if mask[y, x]]
    found = {("actor", VIDOR.actors[actor])}
    for action in actions:
        found |= {("action", VIDOR.actions[action])}
        if actor:
            found |= {("joint", VIDOR.name(actor * VIDOR.stride + action))}
    return found if actions else found | {("action", "background"), ("joint", "background")}


@pytest.fixture(scope="module")
def counted(data: Path) -> dict[tuple[str, str], np.ndarray]:
    """(kind, class) -> pixels right, in the truth and in the prediction, pixel by pixel over both frames."""
    counts: dict[tuple[str, str], np.ndarray] = {}
    for frame in FRAMES:
        true, found = truth(frame), predicted(data, frame)
        for y, x in np.ndindex(make.HEIGHT, make.WIDTH):
            in_truth, in_prediction = classes(true, y, x), classes(found, y, x)
            for one in in_truth | in_prediction:
                cell = one in in_truth and one in in_prediction, one in in_truth, one in in_prediction
                counts[one] = counts.get(one, np.zeros(3)) + cell
    return counts


def of_kind(counted: dict[tuple[str, str], np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The classes of one kind with ground truth."""
    return {name: counts for (of, name), counts in counted.items() if of == kind and counts[1]}


@pytest.mark.parametrize(("kind", "there"), [("actor", 3), ("action", 3), ("joint", 4)])
def test_the_scores_are_those_of_the_packs_and_the_truth_pixel_by_pixel(
    metrics: dict[str, Any], counted: dict[tuple[str, str], np.ndarray], kind: str, there: int
) -> None:
    """Pairs: background, child-watch, dog-chase, dog-watch where the dog covers the child, and no other."""
    right, true, found = np.stack(list(of_kind(counted, kind).values())).T
    scores = metrics[kind]
    assert scores["classes"] == len(true) == there
    assert scores["global_accuracy"] == pytest.approx(100 * right.sum() / true.sum(), abs=1e-4)
    assert scores["class_accuracy"] == pytest.approx(100 * np.mean(right / true), abs=1e-4)
    assert scores["mean_iou"] == pytest.approx(100 * np.mean(right / (true + found - right)), abs=1e-4)


def test_every_output_of_the_stage_is_there_and_classes_have_their_rows(
    data: Path, metrics: dict[str, Any], counted: dict[tuple[str, str], np.ndarray]
) -> None:
    folder = data / "evaluate" / RUN.name
    assert schemas.read_parquet(folder / "confusion.parquet", schemas.CONFUSION).num_rows == 0
    rows = pd.read_csv(folder / "classes.csv").set_index(["kind", "class"])
    assert set(rows.index) == {one for one, counts in counted.items() if counts[1]}
    for one, (right, true, found) in counted.items():
        if true:
            assert rows.loc[one, "accuracy"] == pytest.approx(100 * right / true, abs=1e-4)
            assert rows.loc[one, "iou"] == pytest.approx(100 * right / (true + found - right), abs=1e-4)
    dog, chase = VIDOR.actors.index("dog"), VIDOR.actions.index("chase")
    ids = [("actor", "dog"), ("action", "chase"), ("joint", "dog-chase"), ("joint", "background")]
    assert [rows.loc[one, "id"] for one in ids] == [dog, chase, dog * VIDOR.stride + chase, 0]
    assert metrics["coverage"] == {"scored": 2, "of": 2, "clips": 1}
    assert not any("per_class" in scores for scores in metrics.values())
    assert metrics["actor"]["mean_iou_low"] <= metrics["actor"]["mean_iou"] <= metrics["actor"]["mean_iou_high"]


def test_the_report_shows_the_run_and_rows_of_its_figures(
    data: Path, metrics: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("docs").mkdir(exist_ok=True)
    shutil.copy(CHECKOUT / "docs/published.csv", "docs")
    monkeypatch.setattr(runs, "all_runs", lambda: {RUN.name: RUN})
    bootstrap = resampling.Parameters(resamples=20, seed=0)
    text = report_stage.run(
        report_stage.Parameters(rows=2), bootstrap, "squares", "small", data=data, output=tmp_path / "report"
    )
    assert "3 of 81 actors, 3 of 43 actions, 4 of 3361 pairs" in text and "any number of actions" in text
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith(f"| {RUN.name} | {metrics['actor']['global_accuracy']:.1f} |")
    ]
    assert f"| {metrics['joint']['mean_iou']:.1f} |" in line and line.endswith("| 2/2 |")
    assert "oracle" not in text and "comparison" not in text
    rows = pd.read_csv(tmp_path / "report/results.csv").set_index(["variant", "metric"])["value"]
    for kind in ("actor", "action", "joint"):
        assert rows["full", f"{kind}/mean_iou"] == metrics[kind]["mean_iou"]
        frequent = rows["full, 20 most frequent classes", f"{kind}/mean_iou"]
        assert frequent == metrics[f"{kind}_frequent"]["mean_iou"]
    ledger = pd.read_csv(tmp_path / "report/ledger.csv", keep_default_na=False)
    beside = ledger[ledger["here"] != ""]
    assert set(beside["dataset"]) == {"VidOR"} and len(beside) == 18
    assert (tmp_path / "report/sheet.png").exists()


def test_a_method_that_gives_a_pixel_one_action_says_which_method_to_train(data: Path, tmp_path: Path) -> None:
    run = runs.Run("deeplab-rgb-full-0", "deeplab", "rgb", "full", 0)
    with pytest.raises(ValueError, match=r"deeplab-rgb-full-0: .* deeplab gives a pixel one action; train ssa2d"):
        train_stage.run(run, COMMON, METHOD, dataset_name="squares", data=data, output=tmp_path)


# What a pack holds


class Answering:
    """Says of any frame that a dog is at the left, does actions 1 and 42 there and the second one further right too."""

    def __init__(self, enlarged: int) -> None:
        self.enlarged = enlarged

    def predict(self, batch: dict[str, torch.Tensor]) -> MultiLabelPredictions:
        """Maps of the frames' size times ``enlarged``."""
        del batch
        actor = torch.zeros(1, make.HEIGHT, make.WIDTH, dtype=torch.uint8)
        actor[:, :, :10] = 31
        actions = torch.zeros(1, len(VIDOR.actions), make.HEIGHT, make.WIDTH, dtype=torch.bool)
        actions[:, 0] = True  # nobody learns a sigmoid of background
        actions[:, 1, :, :10] = actions[:, 42, 5:, :20] = True
        factor = self.enlarged
        return MultiLabelPredictions(
            *(maps.repeat_interleave(factor, -1).repeat_interleave(factor, -2) for maps in (actor, actions))
        )


@pytest.mark.parametrize("enlarged", [1, 2])
def test_a_pack_holds_actors_and_the_masks_of_what_is_done_at_the_frame_s_size(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enlarged: int
) -> None:
    config = predictors.configuration(predictors.method_module("deeplab"), "small", inputs="rgb", variant="full")
    predictor = predictors.Predictor(Answering(enlarged), config, VIDOR, torch.device("cpu"))
    monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor)
    folders = {"clip": str(data / "frames/clips"), "index": str(data / "index")}
    argument = {"video": TEST.video, "frames": [3, 24], "run": "", "weights": "", "folders": folders, "true": False}
    label_maps.predict_clip(argument, make.FLOAT32, tmp_path / f"{TEST.video}.arrow")
    packed = action_masks.Predictions(tmp_path)
    assert packed.sets(TEST.video, 4) is None
    for frame in (3, 24):
        found = packed.sets(TEST.video, frame)
        assert found is not None and found.actors.shape == (make.HEIGHT, make.WIDTH)
        assert (found.actors[:, :10] == 31).all() and not found.actors[:, 10:].any()
        masks = {
            action: coco.decode({"size": list(found.actors.shape), "counts": counts}).astype(bool)
            for action, counts in found.actions.items()
        }
        assert list(masks) == [1, 42]
        assert masks[1][:, :10].all() and not masks[1][:, 10:].any()
        assert masks[42][5:, :20].all() and masks[42].sum() == 20 * (make.HEIGHT - 5)
