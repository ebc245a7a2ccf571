"""Region masks end to end on a few clips: features, regions, batches of both, a training, an evaluation."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import IGNORE, deeplab, region_masks
from models.parts.resnet import Config as Encoder
from stages import evaluate, features, regions, train
from stages.core import runs
from stages.core.batches import region_batches
from stages.core.datasets import dataset
from stages.core.scores import segmentation
from tests.help import make

FRONT = runs.Run("deeplab-rgb-full-0", "deeplab", "rgb", "full", 0)
COMMON = train.Common(config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=0, word_vectors="none")
SCORES = segmentation.Parameters(resamples=5, seed=0, non_boundary=3)
ENCODER = Encoder(layers=(1, 1, 1, 1), width=8, bottleneck=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clips with frames, the features of a front-end trained for two steps, and true regions as the found ones."""
    folder = tmp_path_factory.mktemp("regional")
    make.write_release(folder / "data/raw")
    with make.workspace(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(deeplab, "small", replace(deeplab.small, encoder=ENCODER, height=32, crop=(32, 32)))
        patch.setattr(region_masks, "small", replace(region_masks.small, encoder=ENCODER, height=32, pool=2))
        data = make.run_to_flow(folder)
        train.run(FRONT, COMMON, train.Method(steps=2, batch=2), dataset_name="x", data=data, output=data / "train")
        features.run(FRONT, data=data, output=data / "features")
        sources = {"truth": regions.Source(reads=data / "frames")}
        wanted = regions.Parameters(sources=sources, frames="annotated", score_threshold=0.05, most=100)
        regions.run(wanted, source="truth", data=data, output=data / "regions")
        yield data


def run(data: Path, variant: str = "full") -> runs.Run:
    name = f"region_masks-rgb-{variant}-0"
    plain = runs.Run(name, "region_masks", "rgb", variant, 0)
    return replace(plain, features=data / "features" / FRONT.name, regions=data / "regions/truth")


def samples(data: Path, split: str) -> dataset.Dataset:
    return dataset.load(data / "index", data / "frames", split=split, **run(data).folders)


def test_a_frame_has_its_features_and_its_regions_at_the_front_end_s_height(data: Path) -> None:
    """Frames of 48 x 64 are seen at 32 x 43; a square of 16 pixels, found once and true once, is two regions."""
    train_samples = samples(data, "train")
    first = train_samples.frames[0]
    both, found = (
        region_batches.read(train_samples, first.video, first.frame, height=32, found=True, true=true, labelled=True)
        for true in (True, False)
    )
    assert found.labels.shape == (32, 43) and found.features.shape == (64, 4, 6)
    assert len(both.boxes) == 2 * len(found.boxes) > 0
    x1, y1, x2, y2 = found.boxes[0]
    assert (y2 - y1, x2 - x1) == (pytest.approx(16 * 32 / 48), pytest.approx(16 * 43 / 64))
    rows, columns = np.nonzero(found.labels)
    assert y1 <= rows.min() + 0.5 and rows.max() + 0.5 <= y2 and x1 <= columns.min() + 0.5 <= x2


def test_frames_of_two_sizes_are_one_batch_in_which_no_label_lies_outside_a_frame(data: Path) -> None:
    train_samples = samples(data, "train")
    first = train_samples.frames[0]
    one, other = (
        region_batches.read(
            train_samples, first.video, first.frame, height=height, found=True, true=False, labelled=True
        )
        for height in (32, 48)
    )
    batch = region_batches.to_batch([one, other])
    assert batch["shape"] == (48, 64) and batch["labels"].shape == (2, 1, 48, 64)
    assert (batch["labels"][0, 0, 32:] == IGNORE).all() and (batch["labels"][0, 0, :, 43:] == IGNORE).all()
    assert (batch["labels"][0, 0, :32, :43] != IGNORE).all()


def test_batches_go_on_where_a_training_was_killed(data: Path) -> None:
    def batches(start: int) -> list[torch.Tensor]:
        drawn = region_batches.training_batches(
            samples(data, "train"), region_masks.small, seed=3, start=start, steps=4, batch=2, loaders=0
        )
        return [batch["labels"] for batch in drawn]

    assert all(torch.equal(one, other) for one, other in zip(batches(0)[2:], batches(2), strict=True))


def test_a_run_on_regions_is_trained_and_evaluated_and_shares_its_training_with_the_test_on_true_masks(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {}
    for variant in ("full", "true_masks"):
        chosen = run(data, variant)
        method = train.Method(steps=30, batch=2)
        train.run(chosen, COMMON, method, dataset_name="x", data=data, output=data / "train")
        scores[variant] = evaluate.run(chosen, SCORES, data=data, output=data / "evaluate")
    assert "region_masks-rgb-true_masks-0: goes on from step 30 of 30" in capsys.readouterr().out
    assert scores["full"]["coverage"]["scored"] == scores["full"]["coverage"]["of"] > 0
    # Found regions are the true ones here, one an actor, and a region has one action (NaN: no actor was found).
    assert scores["true_masks"]["joint"] == scores["full"]["joint"]
    assert not scores["full"]["consistency"]["purity"] < 100
    written = [json.loads((data / "train" / run(data, v).name / "run.json").read_text()) for v in scores]
    assert written[0]["key"] != written[1]["key"]  # two runs in MLflow
