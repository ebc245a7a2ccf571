"""Toy DVC projects for the tests of flows: made in a folder of the test, run by real `dvc repro` in the real flow."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
QUIET = {"DVC_NO_ANALYTICS": "true", "DVC_SITE_CACHE_DIR": ".dvc/tmp/site", "DO_NOT_TRACK": "1"}


def environment(**changes: str) -> dict[str, str]:
    """What a child gets: this project's packages, this Python first, nobody's tracking or Prefect server."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "RAY_"))}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    return {**env, "PYTHONPATH": str(PROJECT), **QUIET, **changes}


def make(folder: Path, pipeline: str) -> Path:
    """A DVC project without git whose dvc.yaml is ``pipeline``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dvc.yaml").write_text(pipeline)
    (folder / "params.yaml").write_text("workers:\n  runner: serial\n")
    dvc(folder, "init", "--no-scm", "-q")
    return folder


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_until(holds: Callable[[], bool], *, seconds: float = 180.0, what: str) -> None:
    """Poll until ``holds()``."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet asked for by its parent doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid: int) -> set[int]:
    """All processes below ``pid``."""
    found: set[int] = set()
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for below in map(int, child.read_text().split()):
            found |= {below} | descendants(below)
    return found
