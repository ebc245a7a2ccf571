"""MLflow shows what the files say: once, also when it was away, and live while a training runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.core import tracking
from stages.core.reporting.mlflow_runs import project

PROJECT = Path(__file__).resolve().parents[2]
RUN = "deeplab-rgb+flow-full-0"

TRAIN = f"""
import csv, json, sys
from pathlib import Path
folder = Path("data/train/{RUN}")
folder.mkdir(parents=True, exist_ok=True)
rate = Path("rate").read_text().strip()
(folder / "run.json").write_text(json.dumps({{
    "run": "{RUN}", "key": "training-" + rate, "method": "deeplab", "inputs": "rgb+flow", "variant": "full", "seed": 0,
    "parameters": {{"common": {{"config": "small"}}, "rate": rate}}, "parameter_count": 12, "steps": 30,
    "dataset": {{"name": "toy", "hash": "ab" * 32}}}}))
with (folder / "curves.csv").open("w", newline="") as file:
    csv.writer(file).writerow(("step", "loss", "actor_loss"))
    csv.writer(file).writerows((step, f"{{1 / 3 / step:.6g}}", 0.5) for step in (10, 20, 30))
"""
EVALUATE = f"""
import json
from pathlib import Path
Path("data/evaluate/{RUN}").mkdir(parents=True, exist_ok=True)
Path("data/evaluate/{RUN}/metrics.json").write_text(json.dumps({{
    "actor": {{"mean_iou": 60.5}}, "joint": {{"mean_iou": 21.0}}, "coverage": {{"scored": 3, "of": 4}}}}))
"""
DVC_YAML = f"""
stages:
  train:
    foreach:
      {RUN}: {{}}
    do:
      cmd: python train.py
      deps:
        - rate
        - train.py
      outs:
        - data/train/${{key}}/run.json
      plots:
        - data/train/${{key}}/curves.csv:
            x: step
            y: loss
  evaluate:
    foreach:
      {RUN}: {{}}
    do:
      cmd: python evaluate.py
      deps:
        - data/train/${{key}}/run.json
        - evaluate.py
      metrics:
        - data/evaluate/${{key}}/metrics.json:
            cache: false
"""


def dvc(*arguments: str) -> str:
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def track(*arguments: str, folder: Path = Path("."), **changes: str) -> "subprocess.Popen[str]":
    """Start ``python -m stages.commands.track``."""
    return subprocess.Popen(
        [sys.executable, "-m", "stages.commands.track", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project whose pipeline has run."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "train.py").write_text(TRAIN)
    (folder / "evaluate.py").write_text(EVALUATE)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "rate").write_text("1\n")
    before = Path.cwd()
    os.chdir(folder)
    try:
        dvc("init", "--no-scm", "-q")
        dvc("repro")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def toy(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy project to work in."""
    folder = tmp_path / "toy"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database with all migrations done, which take seconds: tests start from a copy.

    Two processes make it at the same time, which fails without tracking's lock.
    """
    folder = tmp_path_factory.mktemp("mlflow")
    both = [track("--make-database", folder=folder) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    return folder / ".mlflow" / "mlflow.db"


@pytest.fixture
def mlflow(toy: Path, empty_database: Path) -> Path:
    """The toy project with an empty MLflow."""
    (toy / ".mlflow").mkdir()
    shutil.copy(empty_database, toy / ".mlflow" / "mlflow.db")
    return toy


def runs() -> dict[str, Any]:
    """Every run in the workspace's MLflow by name; a name that occurs twice is an error."""
    client = tracking.connect().client
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    names = Counter(run.info.run_name for run in found)
    assert max(names.values(), default=1) == 1, names
    return {run.info.run_name: run for run in found}


def points(run: Any) -> dict[str, list[tuple[int, float]]]:
    client = tracking.connect().client
    return {
        key: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }


def state() -> dict[str, Any]:
    """All that a reader sees, to compare before and after."""
    return {
        name: (points(run), run.data.params, run.data.tags, len(run.inputs.dataset_inputs), run.info.status)
        for name, run in runs().items()
    }


def test_a_training_and_its_evaluation_become_one_run_each_with_all_they_hold(mlflow: Path) -> None:
    Path("data/report").mkdir()
    Path("data/report/sheet.png").write_bytes(b"picture")
    Path(".items/profiles").mkdir(parents=True)
    Path(".items/profiles/deeplab-rgb+flow-small.json").write_text(
        json.dumps({"ms_per_frame": {"rgb": 4.5}, "device": "cpu"})
    )

    counts = project()

    assert (counts.added, counts.known, counts.stale) == (2, 0, 0)
    found = runs()
    training, evaluation = found[RUN], found[f"evaluate {RUN}"]
    assert points(training) == {
        "loss": [(10, 0.0333333), (20, 0.0166667), (30, 0.0111111)],
        "actor_loss": [(10, 0.5), (20, 0.5), (30, 0.5)],
    }
    assert training.data.params | {"rate": "1", "common/config": "small", "steps": "30"} == training.data.params
    tags = {"method": "deeplab", "inputs": "rgb+flow", "variant": "full", "seed": "0", "config": "small"}
    assert all(run.data.tags | tags == run.data.tags for run in (training, evaluation))
    assert training.info.status == "FINISHED"
    dataset = training.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("toy", ("ab" * 32)[:36])
    assert evaluation.data.tags["mlflow.parentRunId"] == training.info.run_id
    assert evaluation.data.metrics["joint/mean_iou"] == 21.0
    assert evaluation.data.metrics["coverage/of"] == 4
    assert evaluation.data.metrics["profile/ms_per_frame/rgb"] == 4.5
    client = tracking.connect().client
    assert [file.path for file in client.list_artifacts(evaluation.info.run_id)] == ["sheet.png"]
    assert client.get_experiment(training.info.experiment_id).name == "toy"
    assert Path(".mlflow/artifacts/toy").is_dir()


def test_repeating_changes_nothing(mlflow: Path) -> None:
    project()
    before = state()
    counts = project()
    assert (counts.added, counts.known) == (0, 2)
    assert state() == before


def test_a_projection_killed_half_way_is_completed_without_doubling(
    mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tracking.Store, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            project()
    project()
    found = state()
    assert len(found[RUN][0]["loss"]) == 3
    assert found[RUN][4] == "FINISHED"
    assert f"evaluate {RUN}" in found


def test_a_stage_restored_from_the_run_cache_is_the_run_it_was(mlflow: Path) -> None:
    project()
    before = state()
    Path("rate").write_text("2\n")
    dvc("repro")
    project()
    assert len(tracking.connect().find("run", RUN)) == 4
    Path("rate").write_text("1\n")
    assert "is cached - skipping run" in dvc("repro")
    project()
    assert len(tracking.connect().find("run", RUN)) == 4
    first = tracking.connect().find("stage_key", before[RUN][2]["stage_key"])
    assert len(first) == 1 and points(first[0]) == before[RUN][0]


def test_files_that_are_not_those_of_dvc_lock_are_left_out(mlflow: Path) -> None:
    Path(f"data/train/{RUN}/curves.csv").unlink()
    counts = project()
    assert (counts.added, counts.stale) == (0, 1)


def test_without_results_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project().added == 0
    assert not Path(".mlflow").exists()


def test_track_says_when_mlflow_is_away_and_catches_up_later(mlflow: Path) -> None:
    away = track(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    said, _ = away.communicate()
    assert away.returncode == 1
    assert "nothing is lost" in said and "Traceback" not in said
    assert track().wait() == 0
    assert len(runs()) == 2


LIVE = """
import sys, time
from stages.core import tracking
tracking.FLUSH_SECONDS = 0.1
start, stop, wait = map(int, sys.argv[1:])
with tracking.live(RUN, key="training-1", parameters={"rate": "1"}, experiment="toy") as live:
    for step in range(start, stop + 1, 10):
        live.log(step, {"loss": 1 / 3 / step, "actor_loss": 0.5})
    print("logged", flush=True)
    time.sleep(wait)
"""


def live_training(first: int, last: int, *, wait: int = 0) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", LIVE.replace("RUN", repr(RUN)), str(first), str(last), str(wait)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for_points(count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = runs()
        if RUN in found and len(points(found[RUN]).get("loss", ())) >= count:
            return
        time.sleep(0.2)
    pytest.fail("the live points did not come")


def test_a_killed_training_that_goes_on_is_one_run_with_each_step_once(mlflow: Path) -> None:
    killed = live_training(10, 20, wait=60)
    wait_for_points(2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert live_training(20, 30).wait() == 0  # from a checkpoint: step 20 comes again

    found = runs()
    assert [step for step, _ in points(found[RUN])["loss"]] == [10, 20, 30]
    live_id = found[RUN].info.run_id
    project()

    found = runs()
    assert found[RUN].info.run_id == live_id
    assert [step for step, _ in points(found[RUN])["loss"]] == [10, 20, 30]
    assert found[RUN].info.status == "FINISHED"
    assert "stage_key" in found[RUN].data.tags


def test_the_same_training_done_again_leaves_one_run(mlflow: Path) -> None:
    project()
    before = state()
    assert live_training(10, 30).wait() == 0
    assert len(tracking.connect().find("training_key", "training-1")) == 2  # to be watched while it runs
    project()
    assert state() == before


def test_a_training_neither_fails_nor_waits_when_mlflow_is_away(
    mlflow: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    longest = 0.0
    with tracking.live(RUN, key="k", parameters={}, experiment="toy") as live:
        for step in range(200):
            began = time.perf_counter()
            live.log(step, {"loss": 1.0})
            longest = max(longest, time.perf_counter() - began)
    assert longest < 1.0
    assert len([record for record in caplog.records if "no live curve" in record.message]) == 1


def test_two_processes_that_track_at_once_make_each_run_once(mlflow: Path) -> None:
    both = [track() for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(runs()) == sorted([RUN, f"evaluate {RUN}"])
    assert [step for step, _ in points(runs()[RUN])["loss"]] == [10, 20, 30]
