"""Batches of windows with their instances, and `joint` end to end on a few clips: training, evaluation, report."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.workspace import CHECKOUT
from models import IGNORE, joint
from models.base import Window
from models.parts import detection, maskrcnn, resnet
from models.parts.region_types import InstanceBatch
from stages import evaluate, report, train
from stages.core import runs, schemas
from stages.core.batches import instance_batches, transforms, windows
from stages.core.batches.instance_batches import AnnotatedWindow
from stages.core.batches.instance_transforms import LEAST_PIXELS
from stages.core.datasets import dataset
from stages.core.datasets.labels import A2D
from stages.core.packs.regions import box_of
from stages.core.scores import segmentation
from tests.help import make

AROUND = Window(before=2, after=1)
ADULT, CAT = 1, 6
"""Actors of the two train clips: an adult runs (17), a cat rolls (66)."""
COMMON = train.Common(
    config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=1e9, word_vectors="none"
)
METHOD = train.Method(steps=1, batch=2)
SCORES = segmentation.Parameters(resamples=5, seed=0, non_boundary=3)
TINY = replace(
    maskrcnn.small,
    encoder=resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False, stride=32),
    channels=8,
    hidden=16,
    mask_layers=1,
    proposals=20,
    rois=8,
    score_threshold=0.0,  # nothing is learned here, and something should be found
)


@dataclass(frozen=True)
class Config:
    """What batches read of a method's configuration; whole frames, unless it says otherwise."""

    window: Window = AROUND
    height: int | None = None
    crop: tuple[int, int] | None = None
    flow_encoding: str = "magnitude"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace up to optical flow; joint's `small` is very small in it, and MLflow is away."""
    folder = tmp_path_factory.mktemp("instances")
    make.write_release(folder / "data/raw")
    threads = torch.get_num_threads()
    with make.workspace(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint, "small", replace(joint.small, detector=TINY, height=48, crop=(48, 64)))
        patch.setattr("stages.core.tracking.live", make.no_mlflow)
        yield make.run_to_flow(folder)
    torch.set_num_threads(threads)


@pytest.fixture
def samples(data: Path) -> dataset.Dataset:
    return dataset.load(data / "index", data / "frames", split="train", flow=data / "optical_flow/dis-forward")


def batches(
    samples: dataset.Dataset, config: Config, *, start: int = 0, steps: int = 1, batch: int = 4
) -> list[InstanceBatch]:
    return list(
        instance_batches.training_batches(samples, config, seed=3, start=start, steps=steps, batch=batch, loaders=0)
    )


def with_instances(samples: dataset.Dataset, folder: Path, **changed: Any) -> dataset.Dataset:
    """The same whose instances have other values in a column, actor by actor."""
    rows = schemas.read_parquet(Path(str(samples.index)) / "instances.parquet", schemas.INSTANCES).to_pylist()
    for row in rows:
        row |= {column: of[row["actor"]] for column, of in changed.items() if row["actor"] in of}
    schemas.write_parquet(folder / "instances.parquet", schemas.rows_to_table(rows, schemas.INSTANCES))
    return replace(samples, index=folder)


# Batches


def test_a_batch_has_the_axes_that_methods_on_instances_expect(samples: dataset.Dataset) -> None:
    (batch,) = batches(samples, Config(crop=(24, 40)))
    assert batch["frames"].shape == (4, 4, 24, 40, 3) and batch["frames"].dtype == torch.uint8
    assert batch["flow"].shape == (4, 4, 24, 40, 3) and batch["flow"].dtype == torch.float32
    for boxes, labels, actions, masks in zip(
        batch["boxes"], batch["labels"], batch["actions"], batch["masks"], strict=True
    ):
        assert boxes.shape == (len(labels), 4) and boxes.dtype == torch.float32
        assert masks.shape == (len(labels), 24, 40) and masks.dtype == torch.bool
        assert labels.dtype == actions.dtype == torch.int64 and len(actions) == len(labels)


def unflipped(samples: dataset.Dataset, square: make.Square, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and flow of the window around ``frame``, as they lie in the clip."""
    window = windows.read(samples, square.video, range(frame - 2, frame + 2))
    assert window.flow is not None
    return window.frames, window.flow


def test_frames_flow_masks_and_boxes_are_those_around_the_annotated_frame_flipped_together(
    samples: dataset.Dataset,
) -> None:
    """The labelled frame lies behind the two before it. Flipped to the left and right, u changes its sign."""
    seen = set()
    for batch in batches(samples, Config(), steps=4):
        for position, masks in enumerate(batch["masks"]):
            label = int(batch["labels"][position]) * 10 + int(batch["actions"][position])
            (square,) = [square for square in make.RELEASE[:2] if square.label == label]
            ((frame, step),) = [
                (frame, step)
                for frame in square.annotated
                for step in (1, -1)
                if np.array_equal(masks[0], square.mask(frame)[:, ::step])
            ]
            frames, flow = unflipped(samples, square, frame)
            assert np.array_equal(batch["frames"][position], frames[:, :, ::step])
            assert np.array_equal(
                batch["flow"][position, ..., :2], flow[:, :, ::step] * np.array([step, 1], np.float32)
            )
            assert batch["boxes"][position].tolist() == [list(box_of(masks[0].numpy()))]
            seen.add((label, frame, step))
    assert {(label, frame) for label, frame, _ in seen} == {(17, 2), (17, 6), (66, 2), (66, 6)}
    assert {step for _, _, step in seen} == {1, -1}


def test_flow_is_scaled_with_the_frame_and_encoded_last(samples: dataset.Dataset) -> None:
    (batch,) = batches(samples, Config(height=24))
    assert batch["flow"].shape == (4, 4, 24, 32, 3)
    torch.testing.assert_close(batch["flow"][..., 2], batch["flow"][..., :2].norm(dim=-1))
    known = [
        transforms.to_height(windows.read(samples, frame.video, windows.numbers(frame.frame, AROUND)), 24).flow
        for frame in samples.frames
    ]
    for flow in batch["flow"][..., 1].numpy():
        assert any(np.array_equal(flow[:, :, ::step], fields[..., 1]) for fields in known for step in (1, -1))  # type: ignore[index]


def test_without_flow_a_batch_holds_none(samples: dataset.Dataset) -> None:
    (batch,) = batches(replace(samples, flow_folder=None), Config())
    assert "flow" not in batch


def test_what_a_crop_leaves_too_little_of_is_dropped_with_all_that_is_known_of_it(samples: dataset.Dataset) -> None:
    counts = set()
    for batch in batches(samples, Config(crop=(16, 16)), steps=10):
        for boxes, labels, actions, masks in zip(
            batch["boxes"], batch["labels"], batch["actions"], batch["masks"], strict=True
        ):
            counts.add(len(labels))
            assert len(boxes) == len(labels) == len(actions) == len(masks)
            assert all(int(mask.sum()) >= LEAST_PIXELS for mask in masks)
            assert boxes.tolist() == [list(box_of(mask.numpy())) for mask in masks]
            assert {(int(who), int(does)) for who, does in zip(labels, actions, strict=True)} <= {(1, 7), (6, 6)}
    assert counts == {0, 1}


def test_an_instance_whose_actor_nobody_told_is_left_out(samples: dataset.Dataset, tmp_path: Path) -> None:
    (batch,) = batches(with_instances(samples, tmp_path, actor={ADULT: IGNORE}), Config())
    assert sorted(labels.tolist() for labels in batch["labels"]) == [[], [], [CAT], [CAT]]
    assert sorted(len(masks) for masks in batch["masks"]) == [0, 0, 1, 1]


@pytest.mark.parametrize("untold", [[], [0]])
def test_an_action_that_nobody_told_is_ignored_and_its_instance_is_not(
    samples: dataset.Dataset, tmp_path: Path, untold: list[int]
) -> None:
    (batch,) = batches(with_instances(samples, tmp_path, actions={ADULT: untold}), Config())
    told = {(int(who), int(does)) for who, does in zip(batch["labels"], batch["actions"], strict=True)}
    assert told == {(ADULT, IGNORE), (CAT, 6)}


def test_of_a_held_out_actor_the_actions_alone_are_not_told(samples: dataset.Dataset) -> None:
    (full,), (batch,) = (batches(some, Config()) for some in (samples, dataset.hold_out(samples, "adult")))
    for name in ("boxes", "labels", "masks"):
        assert all(torch.equal(one, other) for one, other in zip(full[name], batch[name], strict=True))  # type: ignore
    for labels, actions, told in zip(batch["labels"], batch["actions"], full["actions"], strict=True):
        assert actions.tolist() == ([IGNORE] if int(labels) == ADULT else told.tolist())


def test_batches_go_on_where_a_training_was_killed(samples: dataset.Dataset) -> None:
    config = Config(crop=(24, 40))
    whole, late = batches(samples, config, steps=4, batch=2)[2:], batches(samples, config, start=2, steps=4, batch=2)
    assert all(torch.equal(one["frames"], other["frames"]) for one, other in zip(whole, late, strict=True))
    assert all(torch.equal(one["flow"], other["flow"]) for one, other in zip(whole, late, strict=True))


def test_windows_of_two_sizes_are_padded_at_the_right_and_below_before_flow_is_encoded() -> None:
    def window(height: int, width: int) -> AnnotatedWindow:
        return AnnotatedWindow(
            frames=np.full((2, height, width, 3), 7, np.uint8),
            flow=np.full((2, height, width, 2), 3, np.float32),
            actors=[ADULT],
            actions=[IGNORE],
            masks=np.ones((1, height, width), bool),
        )

    batch = instance_batches.to_batch([window(6, 4), window(2, 8)], encoding="colour_wheel")
    assert batch["frames"].shape == (2, 2, 6, 8, 3) and batch["frames"][1, :, 2:].sum() == 0
    assert batch["masks"][0].shape == (1, 6, 8) and batch["masks"][0].sum() == 24
    assert [boxes.tolist() for boxes in batch["boxes"]] == [[[0, 0, 4, 6]], [[0, 0, 8, 2]]]
    assert (batch["flow"][0, :, :, 4:] == 255).all(), "white at rest"


# The method, end to end


def joint_run(data: Path, variant: str = "full") -> runs.Run:
    flow = data / "optical_flow/dis-forward"
    return runs.Run(f"joint-rgb+flow-{variant}-0", "joint", "rgb+flow", variant, 0, flow=flow)


def trained(data: Path, run: runs.Run, output: Path, **changed: Any) -> dict[str, Any]:
    """What run.json says of a training."""
    common, method = (changed.get(name, known) for name, known in (("common", COMMON), ("method", METHOD)))
    train.run(run, common, method, dataset_name="squares", data=data, output=output)
    return json.loads((output / run.name / "run.json").read_text())


@pytest.fixture(scope="module")
def evaluated(data: Path) -> tuple[runs.Run, dict[str, Any]]:
    """A run that was trained for a step, and its scores."""
    run = joint_run(data)
    trained(data, run, data / "train")
    return run, evaluate.run(run, SCORES, data=data, output=data / "evaluate")


def test_joint_is_scored_by_label_maps_and_by_boxes(data: Path, evaluated: tuple[runs.Run, dict[str, Any]]) -> None:
    run, scores = evaluated
    assert scores["coverage"]["scored"] == scores["detection"]["coverage"]["scored"] == 2
    assert scores["detection"]["classes"] == {"pair": 1, "actor": 1, "action": 1}
    found = pd.read_parquet(data / "evaluate" / run.name / "detections.parquet")
    assert set(found["video"]) == {"third_in_it"} and set(found["frame"]) == {2, 6}


def test_the_report_has_a_table_of_detections_and_rows_of_their_figures(
    data: Path, evaluated: tuple[runs.Run, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scores = evaluated
    Path("docs").mkdir(exist_ok=True)
    shutil.copy(CHECKOUT / "docs/published.csv", "docs")
    monkeypatch.setattr(runs, "all_runs", lambda: {run.name: run})
    text = report.run(report.Parameters(rows=2), SCORES, "squares", "small", data=data, output=tmp_path)
    assert "over the classes with truth: 1 pairs, 1 actors, 1 actions" in text
    rows = pd.read_csv(tmp_path / "results.csv").set_index(["variant", "metric"])["value"]
    assert rows["full", "detection/pair_map"] == pytest.approx(scores["detection"]["pair_map"], abs=1e-3)
    assert rows["full", "joint/mean_iou"] == pytest.approx(scores["joint"]["mean_iou"], abs=1e-3)
    ledger = pd.read_csv(tmp_path / "ledger.csv", keep_default_na=False)
    assert set(ledger[ledger["here"] != ""]["method"]) == {"joint"}


def test_an_actor_is_held_out_of_a_variant_too_and_the_run_can_be_evaluated(data: Path) -> None:
    run = joint_run(data, "joint_space-without_ball")
    assert trained(data, run, data / "train")["parameters"]["config"]["joint_space"]
    assert "detection" in evaluate.run(run, SCORES, data=data, output=data / "evaluate")


def test_a_training_is_another_one_where_an_instance_is(
    data: Path, evaluated: tuple[runs.Run, dict[str, Any]], tmp_path: Path
) -> None:
    before = json.loads((data / "train" / evaluated[0].name / "run.json").read_text())["key"]
    other = tmp_path / "data"
    shutil.copytree(data, other, ignore=shutil.ignore_patterns("train", "evaluate"))
    samples = dataset.load(data / "index", data / "frames", split="train")
    with_instances(samples, other / "index", actions={CAT: [8]})
    run = replace(joint_run(data), flow=other / "optical_flow/dis-forward")
    assert trained(other, run, tmp_path)["key"] != before


def test_weights_of_coco_come_first_and_take_the_place_of_the_pretrained_appearance_alone(
    data: Path, tmp_path: Path
) -> None:
    """data/pretrain has no rgb2d; its flow2d and the file of COCO are both read. Nothing learns here."""
    (data / "pretrain").mkdir()
    slots = joint.build(joint.small, A2D).encoder_slots()
    flow = {name: torch.full_like(value, 0.25) for name, value in slots["flow2d"].state_dict().items()}
    torch.save(flow, data / "pretrain/flow2d.pt")
    state = maskrcnn.build(TINY, detection.COCO).detector.state_dict()
    torch.save({"state_dict": state}, tmp_path / "coco.pth")
    common = COMMON.model_copy(update={"pretrained": True})
    method = METHOD.model_copy(update={"learning_rate_factor": 0.0, "weights": {"coco": tmp_path / "coco.pth"}})
    trained(data, joint_run(data), tmp_path, common=common, method=method)
    learned = torch.load(tmp_path / joint_run(data).name / "model.pt", weights_only=True)
    for key in ("rpn_head.rpn_conv.weight", "backbone.conv1.weight"):
        assert torch.equal(learned[f"detector.{key}"], state[key])
    assert (learned["flow.backbone.conv1.weight"] == 0.25).all()
    # A user's own encoder replaces that of the checkpoint.
    torch.save({name: torch.full_like(value, 0.5) for name, value in flow.items()}, tmp_path / "own.pth")
    files = {"rgb2d": tmp_path / "own.pth", **method.weights}
    trained(data, joint_run(data), tmp_path, common=common, method=method.model_copy(update={"weights": files}))
    learned = torch.load(tmp_path / joint_run(data).name / "model.pt", weights_only=True)
    assert (learned["detector.backbone.conv1.weight"] == 0.5).all()
