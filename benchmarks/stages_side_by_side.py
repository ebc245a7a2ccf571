"""Equal stages that need nothing of each other, side by side over one after the other, both by flows.reproduce.

Whole commands, with a Prefect server that stands already; every stage keeps one core busy for the same work.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.ratio import Ratio, seconds
from benchmarks.workspace import CHECKOUT, Workspace
from flows import server
from flows.options import Options
from stages.core import cli, workers

WORK = """
import hashlib, pathlib, sys
pathlib.Path(sys.argv[1]).write_bytes(hashlib.pbkdf2_hmac("sha256", b"", b"", {}))
"""
ROUNDS_PER_SECOND = 1_500_000
"""Of PBKDF2 on one core, about: both ways do the same work, so its exact time does not matter."""
PIPELINE = """
stages:
  equal:
    foreach:{names}
    do:
      cmd: python work.py ${{item}}.out
      outs:
        - ${{item}}.out
"""


def measure(folder: Path, *, stages: int = 8, work_seconds: float = 4.0, parallel: int = 0) -> Ratio:
    """``stages`` equal stages, ``parallel`` at a time (0: as many as a flow takes by itself), and one at a time."""
    project = Workspace(folder / "stages_side_by_side")
    project.root.mkdir(parents=True)
    (project.root / "work.py").write_text(WORK.format(round(work_seconds * ROUNDS_PER_SECOND)))
    (project.root / "dvc.yaml").write_text(PIPELINE.format(names="".join(f"\n      - s{n}" for n in range(stages))))
    project.dvc("init", "--no-scm")
    child, url = server.start(project.root)
    try:
        server.wait_for(f"{url}/health", child)
        prefect = server.settings(project.root) | {"PREFECT_API_URL": url} | server.login(project.root)
        _reproduce(project, prefect, "--only=equal@s0")  # the first run of all also makes folders and tables
        one_by_one = seconds(lambda: _reproduce(project, prefect, "--parallel=1"))
        together = seconds(lambda: _reproduce(project, prefect, f"--parallel={parallel}"))
    finally:
        child.ask_to_end()
        child.wait()
    at_a_time = Options(parallel=parallel).side_by_side
    return Ratio(
        name="stages_side_by_side",
        claim="stages side by side over one after the other, as a flow",
        seconds=together,
        against=one_by_one,
        of=f"{stages} stages, {at_a_time} at a time, {workers.cores()} cores",
    )


def _reproduce(project: Workspace, prefect: Mapping[str, str], option: str) -> None:
    """`python -m flows.reproduce` with nothing done before."""
    for result in (*project.root.glob("*.out"), project.root / "dvc.lock"):
        result.unlink(missing_ok=True)
    shutil.rmtree(project.root / ".dvc" / "cache", ignore_errors=True)
    project.run("-m", "flows.reproduce", option, variables={"PYTHONPATH": str(CHECKOUT), **prefect})


def main(
    stages: Annotated[int, typer.Option(help="equal stages", min=1)] = 8,
    work_seconds: Annotated[float, typer.Option(help="what each does on one core, about")] = 4.0,
    parallel: Annotated[int, typer.Option(help="at a time; 0: half the cores, at least two")] = 0,
) -> None:
    """Stages side by side over one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder), stages=stages, work_seconds=work_seconds, parallel=parallel))


if __name__ == "__main__":
    cli.run(main)
