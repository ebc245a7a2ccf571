"""Training: killed anywhere it ends with the weights of an uninterrupted one; done once it is not done again."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import deeplab
from models.parts import resnet
from models.parts.network import Training
from stages import evaluate as evaluate_stage
from stages import train as train_stage
from stages.core import items, runs, schemas
from stages.core.scores import boxes, segmentation
from stages.core.scores.maps import PackedMaps
from stages.core.training import loop
from stages.core.training.loop import Checkpointing, fit, learning_rate_factor
from tests.help import make

SGD = Training(steps=40, batch=8, learning_rates={"all": 0.05})
ADAM = replace(SGD, learning_rates={"all": 1e-2}, optimiser="adam", schedule="cosine")

Log = Callable[[int, dict[str, float]], None]


class Tiny(nn.Module):
    """A network with everything that a resumed training could lose: batch statistics, dropout, several groups."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = (self.layers(batch["x"])[:, 0] - batch["x"].sum(1)).square().mean()
        return {"loss": error, "twice": 2 * error}


def stream(steps: int) -> Callable[[int], Iterator[dict[str, Tensor]]]:
    def batches(start: int) -> Iterator[dict[str, Tensor]]:
        for step in range(start, steps):
            yield {"x": torch.randn(8, 4, generator=torch.Generator().manual_seed(step))}

    return batches


def train(
    folder: Path, schedule: Training = SGD, *, log: Log | None = None, seconds: float = -1, seed: int = 1
) -> tuple[Tiny, list[dict[str, float]]]:
    torch.manual_seed(0)
    network = Tiny()
    curve = fit(
        "tiny", network, network.loss, {"all": list(network.parameters())}, stream(schedule.steps), schedule,
        seed=seed, checkpointing=Checkpointing(key="tiny", seconds=seconds, folder=folder), log=log,
    )  # fmt: skip
    return network, curve


def killed_at(step: int) -> Log:
    def log(at: int, values: dict[str, float]) -> None:
        del values
        if at == step:
            raise KeyboardInterrupt

    return log


def equal(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


# The loop


def test_a_training_learns(tmp_path: Path) -> None:
    _, curve = train(tmp_path, replace(ADAM, steps=100, learning_rates={"all": 0.05}), seconds=1e9)
    losses = [row["loss"] for row in curve]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert [row["step"] for row in curve] == list(range(1, 101))
    assert all(row["twice"] == pytest.approx(2 * row["loss"]) for row in curve)


@pytest.mark.parametrize("schedule", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("steps", [(2,), (17, 18, 40)], ids=["killed-once", "killed-three-times"])
def test_a_killed_training_ends_with_the_weights_and_curve_of_one_that_was_not(
    tmp_path: Path, schedule: Training, steps: tuple[int, ...]
) -> None:
    expected, expected_curve = train(tmp_path / "a", schedule)
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", schedule, log=killed_at(step))
    torch.manual_seed(99)
    network, curve = train(tmp_path / "b", schedule)
    assert equal(network, expected) and curve == expected_curve


def test_without_a_checkpoint_in_between_a_killed_training_starts_over_and_ends_the_same(tmp_path: Path) -> None:
    expected, expected_curve = train(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", log=killed_at(30), seconds=1e9)
    network, curve = train(tmp_path / "b", seconds=1e9)
    assert equal(network, expected) and curve == expected_curve


def test_a_finished_training_is_read_not_repeated(tmp_path: Path) -> None:
    expected, expected_curve = train(tmp_path)

    def nothing(start: int) -> Iterator[Any]:
        raise AssertionError(f"asked for batches from step {start}")

    network = Tiny()
    logged: list[int] = []
    curve = fit(
        "tiny", network, network.loss, {"all": list(network.parameters())}, nothing, SGD, seed=1,
        checkpointing=Checkpointing(key="tiny", seconds=0, folder=tmp_path), log=lambda step, _: logged.append(step),
    )  # fmt: skip
    assert equal(network, expected) and curve == expected_curve
    assert logged == [row["step"] for row in curve], "whoever follows the curve live sees all of it"
    assert not network.training


def test_another_seed_trains_otherwise(tmp_path: Path) -> None:
    first, second = (train(tmp_path / str(seed), seed=seed)[0] for seed in (1, 2))
    assert not equal(first, second)


def test_no_temporary_checkpoint_stays_behind(tmp_path: Path) -> None:
    train(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.lock", "tiny.pt"]


def test_a_curve_has_a_hundred_rows_of_mean_losses(tmp_path: Path) -> None:
    schedule = replace(SGD, steps=300)
    every: list[float] = []

    class Counting(Tiny):
        def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            losses = super().loss(batch)
            every.append(float(losses["loss"].detach()))
            return losses

    network = Counting()
    curve = fit(
        "tiny", network, network.loss, {"all": list(network.parameters())}, stream(300), schedule, seed=1,
        checkpointing=Checkpointing(key="tiny", seconds=1e9, folder=tmp_path),
    )  # fmt: skip
    assert len(curve) == 100 and len(every) == 300
    assert [row["loss"] for row in curve] == pytest.approx([sum(every[i : i + 3]) / 3 for i in range(0, 300, 3)])


def test_the_random_state_of_a_gpu_is_kept_beside_the_cpu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.Generator()  # in its place
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: gpu.get_state())
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: gpu.set_state(state))

    def drawn() -> list[Tensor]:
        return [torch.rand(()), torch.rand((), generator=gpu)]

    state = loop.random_state(torch.device("cuda"))
    first = drawn()
    loop.restore_random_state(state, torch.device("cuda"))
    assert drawn() == first
    loop.restore_random_state(state, torch.device("cpu"))  # the training moved to a machine without one
    again = drawn()
    assert again[0] == first[0] and again[1] != first[1]


class Diverging(Tiny):
    """Its loss is no number at one step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.step = at, 0

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.step += 1
        losses = super().loss(batch)
        return {"loss": losses["loss"] * (float("nan") if self.step == self.at else 1)}


@pytest.mark.parametrize(("steps", "at"), [(40, 7), (40, 40), (300, 200), (203, 203)])
def test_a_loss_that_is_no_number_ends_the_training_and_is_never_saved(tmp_path: Path, steps: int, at: int) -> None:
    network = Diverging(at)
    with pytest.raises(ValueError, match=r"tiny: the loss is no number.*learning rate"):
        fit(
            "tiny", network, network.loss, {"all": list(network.parameters())}, stream(steps),
            replace(SGD, steps=steps), seed=1, checkpointing=Checkpointing(key="tiny", seconds=-1, folder=tmp_path),
        )  # fmt: skip
    for path in tmp_path.glob("*.pt"):
        saved = torch.load(path, weights_only=True)
        assert all(value.isfinite().all() for value in saved["network"].values())


def test_each_group_learns_at_its_own_rate(tmp_path: Path) -> None:
    network = Tiny()
    before = {name: value.clone() for name, value in network.named_parameters()}
    groups = {"front": list(network.layers[0].parameters()), "back": list(network.layers[4].parameters())}
    schedule = replace(SGD, steps=2, learning_rates={"back": 0.1, "front": 0.0}, weight_decay=0)
    fit(
        "tiny", network, network.loss, groups, stream(2), schedule, seed=1,
        checkpointing=Checkpointing(key="tiny", seconds=0, folder=tmp_path),
    )  # fmt: skip
    after = dict(network.named_parameters())
    assert torch.equal(after["layers.0.weight"], before["layers.0.weight"])
    assert not torch.equal(after["layers.4.weight"], before["layers.4.weight"])


# Schedules


def factors(schedule: str, steps: int = 1000) -> list[float]:
    return [learning_rate_factor(Training(steps=steps, batch=1, schedule=schedule), step) for step in range(steps)]


def test_poly_falls_from_one_to_nearly_zero_with_power_0_9() -> None:
    poly = factors("poly")
    assert poly[0] == 1 and poly[500] == pytest.approx(0.5**0.9) and 0 < poly[-1] < 0.01
    assert poly == sorted(poly, reverse=True)


def test_cosine_warms_up_over_a_tenth_and_falls_to_zero() -> None:
    cosine = factors("cosine")
    assert 0 < cosine[0] < 0.02 and cosine[100] == pytest.approx(1) and 0 <= cosine[-1] < 0.001
    assert cosine[:100] == sorted(cosine[:100]) and cosine[100:] == sorted(cosine[100:], reverse=True)
    assert max(cosine) <= 1 and cosine[550] == pytest.approx(0.5)


def test_step_falls_at_each_of_its_steps() -> None:
    assert factors("step:300:0.1") == [1.0] * 300 + [0.1] * 700
    assert factors("step:300,900:0.5") == [1.0] * 300 + [0.5] * 600 + [0.25] * 100


@pytest.mark.parametrize("schedule", ["linear", "step", "step:", ""])
def test_an_unknown_schedule_is_an_error_that_names_what_there_is(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"poly, cosine or step:<at>,<at>,\.\.\.:<factor>"):
        learning_rate_factor(Training(steps=10, batch=1, schedule=schedule), 0)


def test_an_unknown_optimiser_is_an_error_that_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sgd or adam"):
        train(tmp_path, replace(SGD, optimiser="lion"))


# What is written


def test_the_same_weights_give_the_same_bytes_in_any_folder(tmp_path: Path) -> None:
    network = Tiny()
    for name in ("a/model.pt", "another_folder/model.pt"):
        loop.save_weights(tmp_path / name, network)
    written = [path.read_bytes() for path in sorted(tmp_path.rglob("*.pt"))]
    assert len(written) == 2 and written[0] == written[1]


def test_a_curve_is_a_csv_with_step_first(tmp_path: Path) -> None:
    loop.write_curve(tmp_path / "curves.csv", [{"step": 3, "loss": 0.123456789}, {"step": 6, "loss": 2.0}])
    assert (tmp_path / "curves.csv").read_text().split() == ["step,loss", "3,0.123457", "6,2"]


# The stage


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace up to optical flow; deeplab's `small` is very small in it, and MLflow is away."""
    folder = tmp_path_factory.mktemp("workspace")
    make.write_release(folder / "data/raw")
    tiny = replace(
        deeplab.small, encoder=resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False), height=None, crop=(32, 40)
    )
    with make.workspace(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(deeplab, "small", tiny)
        patch.setattr("stages.core.tracking.live", make.no_mlflow)
        yield make.run_to_flow(folder)


COMMON = train_stage.Common(
    config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=0, word_vectors="none"
)
METHOD = train_stage.Method(steps=6, batch=2)
OUTPUTS = ("model.pt", "run.json", "curves.csv")


def deeplab_run(data: Path, inputs: str = "rgb+flow", seed: int = 0) -> runs.Run:
    reads = data / "optical_flow/dis-forward" if "flow" in inputs else None
    return runs.Run(f"deeplab-{inputs}-full-{seed}", "deeplab", inputs, "full", seed, reads)


def train_run(data: Path, output: Path, run: runs.Run, **changed: Any) -> dict[str, bytes]:
    common, method = changed.get("common", COMMON), changed.get("method", METHOD)
    train_stage.run(run, common, method, dataset_name="squares", data=data, output=output)
    return {name: (output / run.name / name).read_bytes() for name in OUTPUTS}


def forget_checkpoints() -> None:
    for path in Path(".items/checkpoints").glob("*"):
        path.unlink()


def test_a_killed_train_stage_ends_with_the_bytes_of_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_run(data, tmp_path / "a", deeplab_run(data))
    forget_checkpoints()

    @contextmanager
    def killed(*_: Any, **__: Any) -> Iterator[Any]:
        class Live:
            log = staticmethod(killed_at(4))

        yield Live()

    monkeypatch.setattr("stages.core.tracking.live", killed)
    with pytest.raises(KeyboardInterrupt):
        train_run(data, tmp_path / "b", deeplab_run(data))
    assert len(list(Path(".items/checkpoints").glob("*.pt"))) == 1
    monkeypatch.setattr("stages.core.tracking.live", make.no_mlflow)
    assert train_run(data, tmp_path / "b", deeplab_run(data)) == expected


def test_a_finished_run_asked_for_again_takes_no_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_run(data, tmp_path / "a", deeplab_run(data))

    def no_step(*_: Any) -> None:
        raise AssertionError("a finished training took a step")

    monkeypatch.setattr(deeplab.DeepLab, "loss", no_step)
    assert train_run(data, tmp_path / "b", deeplab_run(data)) == expected


def test_the_key_of_a_training_changes_with_what_matters_and_with_nothing_else(data: Path, tmp_path: Path) -> None:
    def key(run: runs.Run | None = None, **changed: Any) -> str:
        written = train_run(data, tmp_path / "keys", run or deeplab_run(data, "rgb"), **changed)
        return json.loads(written["run.json"])["key"]

    one_step = METHOD.model_copy(update={"steps": 1, "batch": 1})
    base = key(method=one_step)
    assert key(method=one_step, common=COMMON.model_copy(update={"checkpoint_seconds": 99.0})) == base
    others = [
        key(deeplab_run(data, "rgb", seed=1), method=one_step),
        key(method=one_step.model_copy(update={"learning_rate_factor": 2.0})),
        key(method=one_step.model_copy(update={"batch": 2})),
        key(method=one_step, common=COMMON.model_copy(update={"threads": 2})),
    ]
    assert len({base, *others}) == 5


def test_how_a_machine_trains_changes_nothing_that_is_written(data: Path, tmp_path: Path) -> None:
    """The digest of run.json is part of the key of every prediction."""
    base = train_run(data, tmp_path, deeplab_run(data, "rgb"))
    forget_checkpoints()
    other = COMMON.model_copy(update={"loaders": 1, "checkpoint_seconds": 99.0})
    assert train_run(data, tmp_path, deeplab_run(data, "rgb"), common=other) == base


def test_the_curve_on_disk_has_a_row_a_step_and_the_losses_of_the_method(data: Path, tmp_path: Path) -> None:
    train_run(data, tmp_path, deeplab_run(data, "rgb"))
    with (tmp_path / "deeplab-rgb-full-0/curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert set(rows[0]) == {"step", "loss", "actor", "action"}


def test_named_weights_are_what_the_encoder_starts_from(data: Path, tmp_path: Path) -> None:
    encoder = resnet.ResNet(deeplab.small.encoder)
    for parameter in encoder.parameters():
        nn.init.constant_(parameter, 0.125)
    torch.save({"state_dict": encoder.state_dict()}, tmp_path / "public.pth")
    method = train_stage.Method(steps=1, batch=1, learning_rate_factor=0.0, weights={"rgb2d": tmp_path / "public.pth"})
    written = train_run(data, tmp_path, deeplab_run(data, "rgb"), method=method)
    assert json.loads(written["run.json"])["started_from"] == {"rgb2d": items.file_digest(tmp_path / "public.pth")}
    weights = torch.load(tmp_path / "deeplab-rgb-full-0/model.pt", weights_only=True)
    assert (weights["encoders.rgb.layer4.0.conv2.weight"] == 0.125).all()


def test_named_weights_that_are_missing_are_an_error_that_names_their_file(data: Path, tmp_path: Path) -> None:
    method = train_stage.Method(weights={"rgb2d": tmp_path / "public.pth"})
    with pytest.raises(ValueError, match=r"public.pth is no file: correct `weights` in params.yaml"):
        train_run(data, tmp_path, deeplab_run(data, "rgb"), method=method)


@pytest.mark.parametrize("name", ["rgb3d", "coco"])
def test_weights_for_an_encoder_that_the_run_has_not_are_an_error(data: Path, tmp_path: Path, name: str) -> None:
    method = train_stage.Method(weights={name: tmp_path / "i3d.pt"})
    with pytest.raises(ValueError, match=f"no encoder {name}; this run has rgb2d$"):
        train_run(data, tmp_path, deeplab_run(data, "rgb"), method=method)


def test_a_trained_run_is_evaluated_on_every_test_frame_at_its_own_size(data: Path, tmp_path: Path) -> None:
    run = deeplab_run(data)
    train_run(data, data / "train", run)
    parameters = segmentation.Parameters(resamples=20, seed=0, non_boundary=15)
    result = evaluate_stage.run(run, parameters, data=data, output=tmp_path)
    assert result["coverage"] == {"scored": 2, "of": 2, "clips": 1}
    for kind in ("actor", "action", "joint"):
        assert result[kind]["mean_iou_low"] <= result[kind]["mean_iou"] <= result[kind]["mean_iou_high"]
    packed = PackedMaps(tmp_path / run.name / "predictions")
    predicted = {frame: found for frame in range(12) if (found := packed.maps("third_in_it", frame))}
    assert list(predicted) == [2, 6]
    assert all(maps[name].shape == (make.HEIGHT, make.WIDTH) for maps in predicted.values() for name in maps)
    found = schemas.read_parquet(tmp_path / run.name / "detections.parquet", schemas.DETECTIONS)
    assert found.num_rows == 0 and boxes.looked_at(found) == [] and "detection" not in result


def test_a_zero_shot_run_learns_from_other_labels_than_the_full_one(data: Path, tmp_path: Path) -> None:
    """The train clips show adult-running and cat-rolling: without the adult's actions nobody teaches running."""
    full = train_run(data, tmp_path / "full", deeplab_run(data, "rgb"))
    run = runs.Run("deeplab-rgb-without_adult-0", "deeplab", "rgb", "without_adult", 0, None)
    held_out = train_run(data, tmp_path / "held_out", run)
    assert json.loads(held_out["run.json"])["variant"] == "without_adult"
    assert held_out["model.pt"] != full["model.pt"]
    biases = [
        torch.load(tmp_path / name / "model.pt", weights_only=True)["action.branches.0.bias"][7]
        for name in ("full/deeplab-rgb-full-0", "held_out/deeplab-rgb-without_adult-0")
    ]
    assert biases[1] < biases[0]  # running is only ever the wrong answer
