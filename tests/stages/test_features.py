"""Stage `features`: what a fixed front-end gives at the annotated frames, packed and cached clip by clip."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import deeplab
from models.parts.resnet import Config as Encoder
from stages import features as features_stage
from stages import train as train_stage
from stages.core import runs
from stages.core.datasets import dataset
from stages.core.inference import predictor as predictors
from stages.core.packs.features import ClipFeatures
from tests.help import make

FRONT = runs.Run("deeplab-rgb-full-0", "deeplab", "rgb", "full", 0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Frames of three clips, and a front-end that was trained on them for two steps."""
    tiny = replace(
        deeplab.small, encoder=Encoder(layers=(1, 1, 1, 1), width=8, bottleneck=False), height=48, crop=(32, 32)
    )
    monkeypatch.setattr(deeplab, "small", tiny)
    make.write_release(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        common = train_stage.Common(
            config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=0, word_vectors="none"
        )
        method = train_stage.Method(steps=2, batch=2)
        train_stage.run(FRONT, common, method, dataset_name="squares", data=data, output=data / "train")
        yield data


def test_features_are_the_front_end_s_at_every_annotated_frame_of_both_splits(data: Path) -> None:
    outcome = features_stage.run(FRONT, data=data, output=data / "features")
    assert len(outcome.computed) == 3 and not outcome.quarantined
    samples = dataset.load(data / "index", data / "frames", split="test")
    (item, *_) = predictors.clip_items(FRONT, samples, data)
    predictor = predictors.load_predictor(Path(item.argument["run"]), item.argument["weights"])
    packed = ClipFeatures(data / "features" / FRONT.name / "clips" / f"{item.name}.arrow")
    for frame, sample in predictors.read_windows(item.argument, predictor.config):
        expected = predictor.network.features(predictor.batch([sample])).detach().numpy()[0]
        np.testing.assert_allclose(packed.frame(frame), expected, rtol=1e-3, atol=1e-4)  # half precision
    assert packed.frame(frame).shape == (64, 6, 8)
    with pytest.raises(KeyError):
        packed.frame(frame + 1)


def test_features_are_computed_once(data: Path) -> None:
    features_stage.run(FRONT, data=data, output=data / "features")
    again = features_stage.run(FRONT, data=data, output=data / "features")
    assert len(again.reused) == 3 and not again.computed


def test_a_front_end_that_nobody_listed_or_that_reads_another_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = "runs:\n  deeplab-rgb-full-0:\n    method: deeplab\n    reads: data/frames\n    regions: data/frames\n"
    wrong = "features:\n  fronts:\n    deeplab-rgb-full-0:\n      reads: data/optical_flow/dis-forward\n"
    Path("params.yaml").write_text(run + wrong)
    with pytest.raises(ValueError, match=r"no `deeplab-flow-full-0`; there are deeplab-rgb-full-0"):
        features_stage.main("deeplab-flow-full-0")
    with pytest.raises(ValueError, match="reads another folder than the run"):
        features_stage.main("deeplab-rgb-full-0")
