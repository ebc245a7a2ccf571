"""The whole pipeline on a few generated clips, by real `dvc repro`: what runs, what is reused, what survives a kill."""

import csv
import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import workspace
from benchmarks.workspace import Workspace
from stages.core import items
from stages.core.datasets import a2d

RUN = "deeplab-rgb-full-0"
STEPS = 30
TRAIN, TEST = 5, 3
FLOW = "optical_flow@dis-forward"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A release, the same with one train clip more, and the videos of the larger one (the last of them test clips)."""
    folder = tmp_path_factory.mktemp("releases")
    videos = workspace.make_release(folder / "larger", train=TRAIN + 1, test=TEST, height=48)
    workspace.take(folder / "larger", folder / "release", [*videos[:TRAIN], *videos[-TEST:]])
    return folder / "release", folder / "larger", videos


@pytest.fixture(scope="module")
def finished(releases: tuple[Path, Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A workspace in which every stage has run, not to be changed, and what `dvc repro` said."""
    project = workspace.make(tmp_path_factory.mktemp("finished") / "project", releases[0], runs=[RUN])
    project.set({"train.deeplab": {"steps": STEPS}, "workers": {"runner": "processes"}})
    return project, project.dvc("repro")


@pytest.fixture
def project(finished: tuple[Workspace, str], tmp_path: Path) -> Workspace:
    """A copy of the finished workspace."""
    shutil.copytree(finished[0].root, tmp_path / "project")
    return Workspace(tmp_path / "project")


@pytest.fixture
def release(releases: tuple[Path, Path, list[str]], tmp_path: Path) -> Path:
    """A copy of the finished workspace's release, to be damaged."""
    return Path(shutil.copytree(releases[0], tmp_path / "release"))


def stages_run(said: str) -> list[str]:
    return re.findall(r"^Running stage '(.+)'", said, re.MULTILINE)


def counts(said: str, stage: str) -> tuple[int, int]:
    """(computed, reused) items of ``stage``, as it says itself."""
    found = re.search(rf"^{stage}: \d+ items, (\d+) computed, (\d+) reused", said, re.MULTILINE)
    assert found, f"{stage} did not run:\n{said}"
    return int(found[1]), int(found[2])


def quarantine(project: Workspace, stage: str) -> dict[str, str]:
    table = pd.read_parquet(project.root / "data" / stage / "quarantine.parquet")
    return dict(zip(table["item"], table["reason"], strict=True))


def kill_when(project: Workspace, holds: Callable[[], bool], *command: str) -> None:
    """Start ``dvc COMMAND`` and kill its whole process group with signal 9 as soon as ``holds()``."""
    log = project.root / "killed.log"
    with log.open("w") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "dvc", *command], cwd=project.root, env=project.environment(),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 300
            while not holds():
                assert running.poll() is None, f"it ended before it could be killed:\n{log.read_text()}"
                assert time.monotonic() < deadline, f"not there after 300 s:\n{log.read_text()}"
                time.sleep(0.01)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def forget(project: Workspace, stage: str) -> None:
    """Let DVC know of no result of ``stage``, so that it runs and is not restored from DVC's cache."""
    lock = project.root / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    del content["stages"][stage]
    lock.write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.rmtree(project.root / ".dvc/cache/runs")


def records(project: Workspace, stage: str) -> list[Path]:
    return list((project.root / ".items" / stage).glob("??/*.json"))


def same_files(left: Path, right: Path) -> list[str]:
    """Names of the files below ``left``; fails where ``right`` has others, or other bytes."""
    names = sorted(str(path.relative_to(left)) for path in left.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(right)) for path in right.rglob("*") if path.is_file())
    _, different, broken = filecmp.cmpfiles(left, right, names, shallow=False)
    assert not different and not broken
    return names


def test_dvc_repro_goes_from_clips_to_a_table_and_a_second_one_runs_nothing(finished: tuple[Workspace, str]) -> None:
    project, said = finished
    ran = stages_run(said)
    main = ["parameters", "index", "frames", FLOW, "pretrain", f"train@{RUN}", f"evaluate@{RUN}", "report"]
    beside = ["train_flow@flownets", "optical_flow@flownets-forward", "evaluate_flow", "train_regions@fcis-own",
              "regions@fcis-own", f"features@{RUN}", "miniature", "transfer_data", "transfer"]  # fmt: skip
    assert [stage for stage in ran if stage in main] == main
    assert sorted(stage for stage in ran if stage not in main) == sorted(beside)
    assert ran.index("train_flow@flownets") < ran.index("optical_flow@flownets-forward")
    assert counts(said, "optical_flow-flownets-forward") == (TRAIN + TEST, 0)
    assert f"| {RUN} |" in said
    results = pd.read_csv(project.root / "data/report/results.csv")
    assert {"actor/mean_iou", "action/mean_iou", "joint/mean_iou"} <= set(results[results.method == "deeplab"].metric)
    assert "up to date" in project.dvc("status")
    assert stages_run(project.dvc("repro")) == []


def test_one_clip_more_is_one_clip_decoded_and_one_that_gets_flow(
    project: Workspace, releases: tuple[Path, Path, list[str]]
) -> None:
    project.put(releases[1])
    said = project.dvc("repro", FLOW)
    for stage in ("index", "frames", "optical_flow-dis-forward"):
        assert counts(said, stage) == (1, TRAIN + TEST)


def test_a_parameter_of_optical_flow_decodes_no_frame(project: Workspace) -> None:
    project.set({"optical_flow.quantum": 0.125})
    said = project.dvc("repro", FLOW)
    assert stages_run(said) == ["parameters", FLOW]
    assert counts(said, "optical_flow-dis-forward") == (TRAIN + TEST, 0)


def test_why_says_what_changed_since_the_last_result(
    project: Workspace, releases: tuple[Path, Path, list[str]]
) -> None:
    video = next(video for video in releases[2] if video.startswith("--"))
    why = ("-m", "stages.commands.why", "--stage=frames")
    assert "its code and libraries are unchanged" in project.run(*why, f"--clip={video}").stdout
    project.set({"frames.quality": 80})
    project.run("-m", "stages.frames")
    with (project.root / "stages/core/packs/frames.py").open("a") as file:
        file.write("CHANGED = True\n")
    said = project.run(*why, f"--clip=data/raw/Release/clips320H/{video}.mp4").stdout
    before, now = said.split("changed since in this checkout")
    assert "parameters  quality: 95 -> 80" in before and "stages.core.packs.frames" not in before
    assert "code  stages.core.packs.frames: " in now and "quality" not in now
    assert f"did you mean `{video}`" in project.run(*why, f"--clip={video}x").stdout
    assert "did you mean `frames`" in project.run(*why[:2], "--stage=frame", "--clip=x", check=False).stderr


def test_a_kill_in_frames_loses_only_the_clip_in_flight(project: Workspace, release: Path) -> None:
    slow = release / a2d.CLIPS_FOLDER / "slow.mp4"
    write_noise(slow, frames=160, height=480, width=640)
    table = release / a2d.VIDEOSET
    table.write_bytes(b"slow,11,00:00:00,00:00:07,480,640,160,0,0\r\n" + table.read_bytes())
    project.put(release)
    project.set({"frames.encoding": "png"})  # no clip is in the cache, and the slow one takes seconds
    before = len(records(project, "frames"))
    kill_when(project, lambda: len(records(project, "frames")) == before + TRAIN + TEST, "repro", "frames")
    assert len(records(project, "frames")) == before + TRAIN + TEST
    said = project.dvc("repro", "frames")
    assert counts(said, "frames") == (1, TRAIN + TEST)
    assert quarantine(project, "frames") == {}


def test_a_killed_training_goes_on_and_ends_with_the_weights_of_one_that_was_not_killed(project: Workspace) -> None:
    uninterrupted = (project.root / f"data/train/{RUN}/model.pt").read_bytes()
    checkpoints = project.root / ".items/checkpoints"
    key = json.loads((project.root / f"data/train/{RUN}/run.json").read_text())["key"]
    (checkpoint,) = [path for path in checkpoints.glob("*.pt") if items.digest([RUN, path.stem]) == key]
    checkpoint.unlink()
    forget(project, f"train@{RUN}")
    kill_when(project, checkpoint.exists, "repro", f"train@{RUN}")
    assert not (project.root / f"data/train/{RUN}/model.pt").exists()
    said = project.dvc("repro", f"train@{RUN}")
    assert stages_run(said) == [f"train@{RUN}"]
    step = re.search(rf"goes on from step (\d+) of {STEPS}", said)
    assert step and 0 < int(step[1]) < STEPS
    assert (project.root / f"data/train/{RUN}/model.pt").read_bytes() == uninterrupted


def test_bad_clips_and_annotations_go_to_quarantine_and_the_rest_is_scored(project: Workspace, release: Path) -> None:
    rows = list(csv.reader((release / a2d.VIDEOSET).open(newline="")))
    truncated, missing, past = (row for row in rows if row[8] == "1")
    clip = release / a2d.CLIPS_FOLDER / f"{truncated[0]}.mp4"
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    annotations = sorted((release / a2d.MAT_FOLDER / missing[0]).glob("*.mat"))
    annotations[0].unlink()
    shutil.copy(
        sorted((release / a2d.MAT_FOLDER / past[0]).glob("*.mat"))[0], release / a2d.MAT_FOLDER / past[0] / "00999.mat"
    )
    project.put(release)

    said = project.dvc("repro")

    assert f"| {RUN} |" in said
    assert "up to date" in project.dvc("status")
    index = quarantine(project, "index")
    expected = int(missing[7])
    assert index[f"{missing[0]}/annotations"] == f"{expected - 1} annotations where the data set promises {expected}"
    assert "past the end of the clip" in index[f"{past[0]}/00999"]
    assert len(index) == 2
    assert list(quarantine(project, "frames")) == [truncated[0]]
    assert counts(said, "frames") == (1, TRAIN + TEST - 1)
    coverage = json.loads((project.root / f"data/evaluate/{RUN}/metrics.json").read_text())["coverage"]
    promised = sum(int(row[7]) for row in (truncated, missing, past))
    assert coverage == {"scored": promised - int(truncated[7]) - 1, "of": promised, "clips": 2}


def test_an_unknown_parameter_is_a_clear_error_and_once_mended_nothing_is_computed_again(project: Workspace) -> None:
    good = (project.root / "params.yaml").read_text()
    project.set({"frames.qualty": 3})
    said = project.dvc("repro", "frames", check=False)
    assert "section `frames`: unknown parameter `qualty`; did you mean `quality`?" in said and "Traceback" not in said
    assert "failed to reproduce 'parameters'" in said
    (project.root / "params.yaml").write_text(good)
    assert " computed" not in project.dvc("repro")
    assert "up to date" in project.dvc("status")


@pytest.mark.parametrize("stage", ["frames", "pretrain"])
def test_a_parameter_called_size_is_a_clear_error_though_the_run_cache_knows_the_stage_without_it(
    project: Workspace, stage: str
) -> None:
    project.set({"frames.size": 3})
    said = project.dvc("repro", stage, check=False)
    assert "parameter `frames.size`: DVC's run cache ignores the names `size` and `nfiles`" in said


@pytest.mark.parametrize("runner", ["serial", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_runner_writes_the_bytes_that_processes_write(project: Workspace, runner: str) -> None:
    data, processes = project.root / "data", project.root / "by_processes"
    for stage in ("frames", "optical_flow"):
        shutil.move(data / stage, processes / stage)
    recipes = [f"stages.optical_flow --recipe={backend}-forward" for backend in ("dis", "flownets")]
    for command in ("stages.frames", *recipes):
        variables = {"ACTOR_ACTION_RUNNER": runner, "ACTOR_ACTION_ITEMS": f".items-{runner}"}
        said = project.run("-m", *command.split(), variables=variables).stdout
        assert f"{TRAIN + TEST} computed" in said
    for stage, packs in (("frames", 1), ("optical_flow", 2)):
        names = same_files(processes / stage, data / stage)
        assert sum(name.endswith(".arrow") for name in names) == packs * (TRAIN + TEST)


@pytest.mark.slow
def test_dvc_shows_metrics_and_plots_and_runs_experiments(project: Workspace) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    (project.root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n/site\n")
    subprocess.run([*git, "add", "-A"], cwd=project.root, check=True)
    subprocess.run([*git, "commit", "-qm", "before"], cwd=project.root, check=True)
    shown = json.loads(project.run("-m", "dvc", "metrics", "show", "--json").stdout)
    assert "mean_iou" in shown[""]["data"][f"data/evaluate/{RUN}/metrics.json"]["data"]["joint"]
    plots = project.dvc("plots", "show")
    assert "index.html" in plots and (project.root / "dvc_plots/index.html").stat().st_size > 1000
    said = project.dvc("exp", "run", "-S", "train.deeplab.steps=3", "--single-item", f"train@{RUN}")
    assert stages_run(said) == [f"train@{RUN}"]
    assert json.loads((project.root / f"data/train/{RUN}/run.json").read_text())["steps"] == 3
    assert "train.deeplab.steps" in project.dvc("exp", "show", "--csv")


@pytest.mark.slow
def test_the_complete_matrix_of_runs_ends_in_one_table(releases: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    project = workspace.make(tmp_path / "project", releases[0])
    said = project.dvc("repro")
    for name in workspace.names_of_runs():
        assert f"train@{name}" in stages_run(said)
        assert re.search(rf"^\| {re.escape(name)} \| \d", said, re.MULTILINE), f"no figures of {name}:\n{said}"
    assert stages_run(project.dvc("repro")) == []


@pytest.mark.slow
@pytest.mark.needs_shared
def test_real_clips_become_frames_and_flow(davis: Path, tmp_path: Path) -> None:
    project = workspace.make(tmp_path / "project", davis)
    said = project.dvc("repro", FLOW)
    clips = pd.read_parquet(project.root / "data/index/clips.parquet")
    for stage in ("index", "frames", "optical_flow-dis-forward"):
        assert counts(said, stage) == (len(clips), 0)
    assert quarantine(project, "index") == quarantine(project, "frames") == {}
    assert len(pd.read_parquet(project.root / "data/index/frames.parquet")) == clips["annotated"].sum()


def write_noise(path: Path, *, frames: int, height: int, width: int) -> None:
    """A clip that takes seconds to decode and pack as PNG, and little time to write."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30"}
        for number in range(frames):
            picture = np.roll(noise, 2 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
