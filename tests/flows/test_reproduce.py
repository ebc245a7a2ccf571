"""The flow, as a user meets it: `python -m flows.reproduce` on toy pipelines, real dvc below, real Prefect above."""

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import options, server, ui
from flows.child import Child, Children
from flows.gpus import Gpus
from flows.options import Options
from flows.schedule import StageRun
from flows.summary import print_results
from stages.core.workspace import only_run
from tests.help import toy
from tests.help.intruder import answers

PIPELINE = """
stages:
  left:
    cmd: touch left.begun && python meet.py right.begun && touch left
    outs:
      - left
  right:
    cmd: touch right.begun && python meet.py left.begun && touch right
    outs:
      - right
  flaky:
    cmd: echo x >> flaky.tries && test $(wc -l < flaky.tries) -ge 2 && touch flaky
    deps:
      - left
    outs:
      - flaky
  bad:
    cmd: "echo x >> bad.tries; test -e mended || { echo error: it needs mending; exit 3; }; touch bad"
    outs:
      - bad
  after_bad:
    cmd: cp bad after_bad
    deps:
      - bad
    outs:
      - after_bad
  last:
    cmd: cp after_bad last
    deps:
      - after_bad
    outs:
      - last
  train:
    foreach:
      toy-rgb-full-0: {}
    do:
      cmd: mkdir -p data/train/${key} && echo '{}' > data/train/${key}/run.json
      outs:
        - data/train/${key}/run.json
  report:
    cmd: mkdir -p data/report && cp report.source data/report/report.md
    deps:
      - right
      - report.source
    outs:
      - data/report
"""
MEET = """
import sys, time
from pathlib import Path
deadline = time.monotonic() + 150
while not Path(sys.argv[1]).exists():
    assert time.monotonic() < deadline, "the other stage did not run beside this one"
    time.sleep(0.05)
"""
REPORT = "# Comparison\n\nWords.\n\n| method | mean iou |\n|---|---|\n| toy | 12.5 |\n"
HANG = """
stages:
  hang:
    cmd: python hang.py && touch hang
    outs:
      - hang
"""
HANG_CODE = """
import os, subprocess, sys, time
from pathlib import Path
if Path("mended").exists():
    sys.exit()
own_session = subprocess.Popen(["sleep", "300"], start_new_session=True)
Path("pids.part").write_text(f"{os.getpid()} {own_session.pid}")
os.replace("pids.part", "pids")
time.sleep(300)
"""
JOIN_RAY = """
import os, sys
from pathlib import Path
import ray
assert os.environ["ACTOR_ACTION_RUNNER"] == "ray"
ray.init(log_to_driver=False)
@ray.remote
def double(number):
    return 2 * number
assert ray.get(double.remote(21)) == 42
Path(sys.argv[1]).write_text(ray.get_runtime_context().gcs_address)
"""
NOTHING_TO_DO = """
import sys
from pathlib import Path
from rich.console import Console
from flows.options import Options
from flows.reproduce import run
code = run(Options(), Path.cwd(), Console())
assert not {"prefect", "ray", "mlflow"} & sys.modules.keys(), "a run with nothing to do imported what it needs not"
sys.exit(code)
"""


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's folder of this session: making its database takes longer than any flow here."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def api(prefect_home: Path) -> Iterator[str]:
    """A Prefect server for those tests that are not about starting one."""
    address = server.address(server.free_port())
    environment = toy.environment(PREFECT_HOME=str(prefect_home), **address)
    child = Child([*server.command(), "--no-ui"], environment=environment, output=prefect_home / "log")
    try:
        server.wait_for(f"{address['PREFECT_API_URL']}/health", child)
        yield address["PREFECT_API_URL"]
    finally:
        child.ask_to_end()
        child.wait()


def begin(folder: Path, *arguments: str, **changes: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "flows.reproduce", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=toy.environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def reproduce(folder: Path, *arguments: str, **changes: str) -> tuple[int, str]:
    """Run the flow to its end: exit code and all that it printed."""
    process = begin(folder, *arguments, **{"COLUMNS": "160", **changes})
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def ask(api: str, what: str, *, token: str = "") -> list[dict[str, Any]]:
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Basic {base64.b64encode(token.encode()).decode()}",
    }
    request = urllib.request.Request(f"{api}/{what}/filter", data=b"{}", headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=30) as reply:
        result: list[dict[str, Any]] = json.load(reply)
    return result


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy.make(tmp_path_factory.mktemp("toy"), PIPELINE)
    (folder / "meet.py").write_text(MEET)
    (folder / "report.source").write_text(REPORT)
    return folder


@pytest.fixture(scope="module")
def first(project: Path, api: str) -> tuple[int, str]:
    """The first run of the pipeline, with MLflow away."""
    return reproduce(project, PREFECT_API_URL=api, MLFLOW_TRACKING_URI="http://127.0.0.1:9")


def test_independent_stages_run_side_by_side(project: Path, first: tuple[int, str]) -> None:
    assert (project / "left").exists() and (project / "right").exists(), first[1]


def test_a_failed_stage_is_retried(project: Path, first: tuple[int, str]) -> None:
    assert (project / "flaky").exists(), first[1]
    assert (project / "flaky.tries").read_text() == "x\nx\n"


def test_a_stage_that_stays_failed_stops_only_what_needs_it(project: Path, first: tuple[int, str]) -> None:
    code, output = first
    assert code == 1
    assert (project / "bad.tries").read_text() == "x\nx\n"
    assert (project / "data/report/report.md").exists()
    rows = {cells[1]: cells for line in output.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 4}
    assert rows["bad"][2:5:2] == ["failed", "error: it needs mending"]
    assert rows["after_bad"][2:5:2] == ["skipped", "needs bad, which failed"]
    assert rows["last"][2:5:2] == ["skipped", "needs bad, which failed (through after_bad)"]
    assert rows["flaky"][2] == "ran"


def test_the_end_shows_the_table_and_where_the_results_are(first: tuple[int, str]) -> None:
    assert "toy" in first[1] and "12.5" in first[1] and "report: data/report/report.md" in first[1]


@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_a_report_of_an_earlier_run_is_not_shown_as_the_result(tmp_path: Path, state: str) -> None:
    (tmp_path / "data/report").mkdir(parents=True)
    (tmp_path / "data/report/report.md").write_text(REPORT)
    console = Console(record=True)
    print_results(console, tmp_path, [StageRun("report", state)])
    text = console.export_text()
    assert "earlier run" in text and "12.5" not in text
    print_results(console, tmp_path, [StageRun("report", "ran"), StageRun("train@a", state)])
    assert "12.5" in console.export_text()


@pytest.mark.parametrize(
    ("cores", "at_work", "processes"),
    [(1, 2, 1), (2, 1, 2), (2, 2, 2), (4, 2, 4), (64, 1, 64), (64, 32, 4), (8, 50, 2)],
)
def test_a_stage_alone_has_all_cores_and_many_share_them(
    monkeypatch: pytest.MonkeyPatch, cores: int, at_work: int, processes: int
) -> None:
    monkeypatch.setattr(options, "cores", lambda: cores)
    assert Options().processes(at_work) == processes


def test_each_stage_gets_the_gpu_that_the_fewest_use() -> None:
    gpus = Gpus(["2", "5"])
    with gpus.one() as first, gpus.one() as second:
        assert (first, second) == ({"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"})
        with gpus.one(), gpus.one() as fourth:
            assert fourth == second
    with gpus.one() as again:
        assert again == first


@pytest.mark.parametrize("names", [[], ["0"]])
def test_without_several_gpus_a_stage_is_told_nothing(names: list[str]) -> None:
    with Gpus(names).one() as variables:
        assert variables == {}


def test_mlflow_being_away_is_a_warning(first: tuple[int, str]) -> None:
    assert "MLflow was not brought up to date" in first[1]
    assert "Traceback" not in first[1].split("MLflow was not")[0].split("track |")[-1]


def test_prefect_shows_states_logs_and_the_report(api: str, first: tuple[int, str]) -> None:
    states = {run["name"]: run["state_name"] for run in ask(api, "task_runs")}
    expected = {"left": "Ran", "flaky": "Ran", "bad": "Failed", "after_bad": "Skipped", "report": "Ran"}
    assert states | expected == states
    assert any("error: it needs mending" in log["message"] for log in ask(api, "logs"))
    assert [artifact["data"] for artifact in ask(api, "artifacts") if artifact["key"] == "report"] == [REPORT]


def test_the_next_run_does_only_what_is_left_and_the_one_after_nothing(
    project: Path, api: str, first: tuple[int, str]
) -> None:
    (project / "mended").touch()
    code, output = reproduce(project, PREFECT_API_URL=api, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 0, output
    assert (project / "last").exists()
    assert (project / "flaky.tries").read_text() == "x\nx\n"
    assert "up to date" in toy.dvc(project, "status")

    done = subprocess.run(
        [sys.executable, "-c", NOTHING_TO_DO], cwd=project, env=toy.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing changed: all 8 stages are up to date" in done.stdout


def test_a_second_run_of_the_workspace_ends_at_once_and_says_so(project: Path) -> None:
    with only_run(project):
        code, output = reproduce(project)
        assert code == 75
        assert f"another run is at work in this workspace (process {os.getpid()}" in output
        # The deployed flow takes it as done, not as failed.
        scheduled = "from flows.prefect_flow import reproduce; print(repr(reproduce.fn()))"
        done = subprocess.run(
            [sys.executable, "-c", scheduled], cwd=project, env=toy.environment(), capture_output=True, text=True
        )
    assert "COMPLETED" in done.stdout and "another run is at work" in done.stdout, done.stdout + done.stderr


def test_a_mistake_on_the_command_line_is_one_line(project: Path) -> None:
    code, output = reproduce(project, "--only=lfet")
    assert (code, output.strip()) == (1, "error: no stage `lfet` in dvc.yaml; did you mean `left`?")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_flow_ends_no_child_stays_and_the_next_run_goes_on(
    tmp_path: Path, api: str, how: signal.Signals
) -> None:
    folder = toy.make(tmp_path / "hang", HANG)
    (folder / "hang.py").write_text(HANG_CODE)
    flow = begin(folder, PREFECT_API_URL=api)
    toy.wait_until((folder / "pids").exists, what="the stage runs")
    below = toy.descendants(flow.pid) | set(map(int, (folder / "pids").read_text().split()))
    assert len(below) >= 4  # guard, dvc, the stage, and its child in a session of its own

    flow.send_signal(how)
    flow.wait(timeout=180)
    (folder / "mended").touch()
    if how is signal.SIGKILL:  # at once, while a killed dvc may still be going
        code, output = reproduce(folder, PREFECT_API_URL=api)
        assert code == 0, output
    toy.wait_until(lambda: not any(map(toy.is_alive, below)), what="all children are gone")
    assert flow.returncode != 0


def test_without_a_server_the_flow_brings_its_own_and_takes_it_away(
    tmp_path: Path, prefect_home: Path, api: str
) -> None:
    folder = toy.make(tmp_path / "alone", HANG)
    (folder / "hang.py").write_text(HANG_CODE)
    flow = begin(folder, PREFECT_HOME=str(prefect_home))
    toy.wait_until((folder / "pids").exists, what="the stage runs")
    below = toy.descendants(flow.pid)
    told = Path(f"/proc/{(folder / 'pids').read_text().split()[0]}/environ").read_text().split("\0")
    (url,) = (setting.partition("=")[2] for setting in told if setting.startswith("PREFECT_API_URL="))
    assert set(answers(url).values()) == {401}
    assert ask(url, "flow_runs", token=(prefect_home / "token").read_text())
    assert sum(b"prefect" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in below) >= 1
    flow.kill()
    flow.wait()
    toy.wait_until(lambda: not any(map(toy.is_alive, below)), what="stage and server are gone")


@pytest.mark.slow
def test_with_ray_one_head_serves_all_stages_and_ends_with_the_flow(tmp_path: Path, api: str) -> None:
    stages = "".join(f"  {name}:\n    cmd: python join.py {name}\n    outs:\n      - {name}\n" for name in ("a", "b"))
    folder = toy.make(tmp_path / "ray", f"stages:\n{stages}")
    (folder / "join.py").write_text(JOIN_RAY)
    flow = begin(folder, "--runner=ray", PREFECT_API_URL=api)
    output, _ = flow.communicate(timeout=500)
    assert flow.returncode == 0, output
    address = (folder / "a").read_text()
    assert address.startswith("127.0.0.1:") and (folder / "b").read_text() == address

    def ray_of_ours() -> list[bytes]:
        port = address.split(":")[1].encode()
        found = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        return [
            line for line in found if b"gcs_server_port=" + port in line or b"gcs-address=127.0.0.1:" + port in line
        ]

    toy.wait_until(lambda: not ray_of_ours(), what="Ray is gone")


@pytest.mark.slow
def test_a_scheduled_run_finishes_under_the_servers_of_make_ui(tmp_path: Path) -> None:
    folder = toy.make(tmp_path / "scheduled", "stages:\n  one:\n    cmd: touch one\n    outs:\n      - one\n")
    for name in ("flows", "stages"):
        (folder / name).symlink_to(toy.PROJECT / name)
    lines = (toy.PROJECT / "prefect.yaml").read_text().splitlines()
    nightly = next(number for number, line in enumerate(lines) if "- cron:" in line)
    lines[nightly : nightly + 2] = ["      - interval: 10"]
    (folder / "prefect.yaml").write_text("\n".join(lines))

    with Children() as children:
        services = ui.start(children, folder, prefect_port=0, mlflow_port=0)
        assert services.mlflow is not None and server.answers(f"{services.mlflow}/health")
        token = server.token(folder)

        def messages() -> list[str]:
            runs = ask(f"{services.prefect}/api", "flow_runs", token=token)
            return [run["state"]["message"] or "" for run in runs if run["state_type"] == "COMPLETED"]

        def both_came() -> bool:
            return "1 ran" in messages() and any("nothing changed" in message for message in messages())

        toy.wait_until(both_came, seconds=400, what="a scheduled run that ran the stage, and one with nothing to do")
        below = set().union(*(toy.descendants(child.pid) | {child.pid} for child in services.children.values()))
    assert (folder / "one").exists()
    assert not any(map(toy.is_alive, below))
