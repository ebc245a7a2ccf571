"""Is everything there that the tools need? Each check says how to mend what it finds; the traps: docs/gotchas.md.
No stage of the pipeline: reads only, writes nothing. Exit code 1 if a check fails; a warning leaves it 0.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Literal

import psutil
import yaml
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.core import mlflow_schema, params, site_cache
from stages.core.addresses import fault, hidden, takes_anybody

EXACT = (
    "torch", "onedl-mmcv", "onedl-mmdetection", "prefect", "fastapi", "sqlalchemy", "numpy", "opencv-python-headless",
)  # fmt: skip
"""Another version of these breaks something that we know of; of any other package it is only untested."""
REINSTALL = "rm -r .venv/.setup && make setup"
GROWTH = 20  # bytes below data/ and in DVC's cache per byte of raw data
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Result:
    """What a check found, and how to mend it."""

    state: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""


Check = Callable[[Path], Result]
"""Given the project's top folder."""


def python_version(root: Path) -> Result:
    version = f"Python {sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info[:2] != (3, 11):
        return Result("fail", version, "Python 3.11 is needed: make setup PYTHON=/path/to/python3.11")
    return Result("ok", version)


def versions(root: Path) -> Result:
    """Are the installed packages those of constraints.txt?"""
    lines = [line.split("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines()]
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    broken, untested = list[str](), list[str]()
    for name, _, pin in (line.partition("==") for line in lines if "==" in line):
        found = installed.get(canonicalize_name(name))
        if found is None and canonicalize_name(name) in EXACT:
            broken.append(f"{name} is missing")
        elif found is not None and found.split("+")[0] != pin:  # +cpu: how it was built, not what it is
            (broken if canonicalize_name(name) in EXACT else untested).append(f"{name} {found} instead of {pin}")
    if broken:
        return Result("fail", ", ".join(broken), REINSTALL)
    if untested:
        return Result("warn", ", ".join(untested[:5]) + (" ..." if len(untested) > 5 else ""), REINSTALL)
    return Result("ok", "what is installed is what constraints.txt pins")


def opencv(root: Path) -> Result:
    """mmcv brings opencv-python, which needs libGL; the headless one must lie on top of it."""
    script = "import cv2, cv2.version; raise SystemExit(0 if cv2.version.headless else 'cv2 is not the headless build')"
    return _run([sys.executable, "-c", script], good="cv2 is the headless build", mend=REINSTALL)


def mmcv(root: Path) -> Result:
    mend = f"{REINSTALL} (for a GPU: nvcc in PATH, FORCE_CUDA=1)"
    return _run([sys.executable, str(root / ".ci" / "operators.py")], good="nms and roi_align run", mend=mend)


def parameters(root: Path) -> Result:
    try:
        params.read(root / "params.yaml")
    except ValueError as error:
        return Result("fail", str(error), "rename or mend it in params.yaml")
    return Result("ok", "no name that DVC's run cache would ignore")


def pipeline(root: Path) -> Result:
    """Does DVC accept the pipeline? It finds outputs that overlap, also where data.dvc tracks all of data/."""
    mend = "one output folder for each stage in dvc.yaml; data.dvc must track data/raw alone"
    return _run([sys.executable, "-m", "dvc", "dag"], good="DVC accepts it, no outputs overlap", mend=mend, cwd=root)


def dvc_locks(root: Path) -> Result:
    """A killed dvc frees its lock but may leave a broken list of readers and writers behind."""
    folder = root / ".dvc" / "tmp"
    if (folder / "rwlock").exists():
        try:
            table = json.loads((folder / "rwlock").read_text())
        except json.JSONDecodeError:
            return Result("fail", "a killed dvc left .dvc/tmp/rwlock broken", "when no dvc runs: rm .dvc/tmp/rwlock")
        entries = [*table.get("write", {}).values(), *(e for group in table.get("read", {}).values() for e in group)]
        for pid in sorted({int(entry["pid"]) for entry in entries}):
            if psutil.pid_exists(pid) and "dvc" not in " ".join(_command_line(pid)):
                detail = f"a killed dvc left process {pid} as owner, which is another program now"
                return Result("fail", detail, "when no dvc runs: rm .dvc/tmp/rwlock")
    if (folder / "lock").exists():
        with (folder / "lock").open("rb") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                holder = (folder / "lock").read_text().strip()
                return Result("warn", f"dvc is at work (process {holder})", f"wait for it; if it hangs: kill {holder}")
    return Result("ok", "free")


def dvc_site_caches(root: Path) -> Result:
    if found := " ".join(map(str, site_cache.writable_by_others(root))):
        return Result("warn", f"others may write what dvc runs: {found}", f"rm -r {found} && git restore .dvc-site")
    return Result("ok", "no other account writes what dvc reads back")


def raw_data(root: Path) -> Result:
    raw = root / "data" / "raw"
    if raw.is_dir() and any(raw.iterdir()):
        return Result("ok", "data/raw is in place")
    return Result(
        "fail", "data/raw is missing", "python -m stages.commands.data ensure, or make data FROM=/path/to/release"
    )


def disk(root: Path) -> Result:
    """Is there room for what the stages make of the data set at hand?"""
    pin = root / "data.dvc"
    outs = yaml.safe_load(pin.read_text())["outs"] if pin.exists() else []
    needed = max(2e9, GROWTH * sum(out.get("size", 0) for out in outs))
    free = shutil.disk_usage(root).free
    detail = f"{free / 1e9:.1f} GB free, up to {needed / 1e9:.1f} GB needed from nothing"
    mend = (
        "free some, or move .dvc/cache: dvc cache dir --local PATH; old results: dvc gc --workspace, "
        "stages.commands.prune"
    )
    return Result("ok", detail) if free >= needed else Result("fail" if free < 1e9 else "warn", detail, mend)


def shared_memory(root: Path, folder: Path = Path("/dev/shm")) -> Result:
    if not folder.is_dir():
        return Result("ok", "no /dev/shm on this system")
    free = shutil.disk_usage(folder).free
    if free < 1 << 30:  # then Ray keeps its objects on the disk
        mend = "docker run --shm-size=2g, or workers.runner: processes in params.yaml"
        return Result("warn", f"{free / 1e6:.0f} MB in {folder}: Ray will be slow", mend)
    return Result("ok", f"{free / 1e9:.1f} GB in {folder}")


def mlflow_database(root: Path, *, newest: str | None = None) -> Result:
    """Does the database open, is it whole, of the installed MLflow's schema, and can it be written to?"""
    if "://" in (uri := os.environ.get("MLFLOW_TRACKING_URI", "")) and not uri.startswith("sqlite:"):
        return _reachable("MLFLOW_TRACKING_URI", mend="start that server, or unset MLFLOW_TRACKING_URI")
    path = root / ".mlflow" / "mlflow.db"
    if not path.exists():
        return Result("ok", "no database yet: the first run makes it")
    restore = f"mv {path} {path}.broken && make track (all of it comes from the stages' files)"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=2, isolation_level=None)
        try:
            if (fault := connection.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                return Result("fail", f"damaged: {fault}", restore)
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            return Result("warn", "locked by another process", "wait, or end the process that holds it (lsof, fuser)")
        return Result("fail", str(error), restore)
    newest = newest or mlflow_schema.newest()
    if found is None or found[0] != newest:
        detail = f"schema {found[0] if found else 'unfinished'}, MLflow wants {newest}"
        return Result("fail", detail, f"python -m mlflow db upgrade sqlite:///{path}")
    return Result("ok", f"whole, schema {newest}")


def prefect_api(root: Path) -> Result:
    result = _reachable("PREFECT_API_URL", mend="start it with `make ui`, or unset PREFECT_API_URL")
    if result.state == "ok" and takes_anybody(url := os.environ.get("PREFECT_API_URL", "")):
        detail = f"{hidden(url)} takes requests without a token: whoever reaches it runs commands on its workers"
        return Result("warn", detail, "PREFECT_SERVER_API_AUTH_STRING for it, PREFECT_API_AUTH_STRING for its clients")
    return result


def ray_address(root: Path) -> Result:
    return _reachable("RAY_ADDRESS", mend="start the cluster (ray start --head), or unset RAY_ADDRESS")


def processor(root: Path) -> Result:
    """Does this processor compute convolutions right? Where not, they are computed in another way."""
    from stages.core.processor import condition  # not above: torch takes seconds

    fine, detail = condition()
    return Result("ok", detail) if fine else Result("warn", detail, "nothing to do: computed in another way, slower")


CHECKS: dict[str, Check] = {
    "Python": python_version, "package versions": versions, "opencv": opencv, "mmcv operators": mmcv,
    "processor": processor, "parameter names": parameters, "pipeline": pipeline, "DVC locks": dvc_locks,
    "DVC site caches": dvc_site_caches, "raw data": raw_data, "disk": disk, "shared memory": shared_memory,
    "MLflow database": mlflow_database, "Prefect API": prefect_api, "Ray": ray_address,
}  # fmt: skip


def main(root: Path = Path()) -> int:
    """Print every check's result; 1 if one failed."""
    table = Table("check", "state", "found", "how to mend", title="doctor")
    results = {name: check(root) for name, check in CHECKS.items()}
    for name, result in results.items():
        table.add_row(name, f"[{COLOURS[result.state]}]{result.state}[/]", escape(result.detail), escape(result.mend))
    Console().print(table)
    return int(any(result.state == "fail" for result in results.values()))


def _reachable(variable: str, *, mend: str) -> Result:
    address = os.environ.get(variable)
    if not address or address in ("auto", "local"):
        return Result("ok", f"{variable} is {address or 'not set'}: a flow starts what it needs")
    if reason := fault(address):
        return Result("fail", f"{hidden(address)}: {reason}", mend)
    return Result("ok", f"{hidden(address)} answers")


def _run(command: list[str], *, good: str, mend: str, cwd: Path | None = None) -> Result:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode == 0:
        return Result("ok", good)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"ended with {done.returncode}"]
    said = lines[-1:] if "Traceback" in lines[0] else lines
    return Result("fail", " ".join(said)[:300], mend)


def _command_line(pid: int) -> list[str]:
    with contextlib.suppress(psutil.Error):  # it ended meanwhile, or is not ours: then it is not our dvc either
        return psutil.Process(pid).cmdline()
    return []


if __name__ == "__main__":
    raise SystemExit(main())
