"""``python -m flows.reproduce``: bring the pipeline up to date, independent stages side by side, as a Prefect flow.

Plans first. Where nothing is stale it ends at once, without starting or importing Prefect. Otherwise it runs the stale
stages and what depends on them, and prints what they did, the report's table, and where the results are. Exit codes: 0
when the pipeline is up to date, 1 when a stage failed, 75 when another run is at work in this workspace.
"""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows import server
from flows.dag import Plan, plan
from flows.options import Options
from flows.ray_head import RayHead
from flows.schedule import StageRun
from flows.summary import failures, print_results, print_stages
from stages.core import cli
from stages.core.addresses import hidden
from stages.core.workspace import AnotherRun, only_run

EX_TEMPFAIL = 75
"""sysexits.h: try again later."""


def run(options: Options, root: Path, console: Console) -> int:
    """Bring the pipeline at ``root`` up to date; returns the exit code. ``ValueError`` for what a user can mend."""
    began = time.monotonic()
    try:
        with only_run(root):
            wanted = plan().only(options.only)
            if not wanted.to_run:
                console.print(f"nothing changed: all {len(wanted.stages)} stages are up to date", highlight=False)
                print_results(console, root)
                return 0
            runs = run_stages(wanted, options, root, console)
    except AnotherRun as busy:
        console.print(f"{busy}; nothing was started", highlight=False)
        return EX_TEMPFAIL
    print_stages(console, runs)
    print_results(console, root, runs)
    console.print(f"{time.monotonic() - began:.0f} s in all", highlight=False)
    return 1 if failures(runs) else 0


def run_stages(wanted: Plan, options: Options, root: Path, console: Console) -> list[StageRun]:
    """Run the stale stages of ``wanted`` under Prefect, with a server and a Ray head of our own where none stand."""
    # All three start at the same time: server, Ray and, by the import below, Prefect's client in this process.
    os.environ.update(server.settings(root))
    os.environ.update(server.configured())
    url, own = os.environ.get("PREFECT_API_URL"), None
    if not url:
        url = server.of_ui(root)
        if url is None:
            own, url = server.start(root)
        os.environ.update({"PREFECT_API_URL": url, **server.login(root)})
    ray = RayHead.wanted(options.chosen_runner(root), root)
    console.print(
        f"{len(wanted.to_run)} of {len(wanted.stages)} stages to look at; Prefect: {hidden(url)}", highlight=False
    )
    from flows import prefect_flow

    if own is not None:
        server.wait_for(f"{url}/health", own)
    return prefect_flow.run(wanted, options, ray, root)


def main(
    only: Annotated[list[str] | None, typer.Option(help="a stage (train: every train@...) and what it needs")] = None,
    retries: Annotated[int, typer.Option(help="of a stage that failed")] = 1,
    runner: Annotated[str | None, typer.Option(help="inside stages: auto, serial, processes or ray")] = None,
    parallel: Annotated[int, typer.Option(help="stages at a time; 0: half the cores, at least two")] = 0,
) -> None:
    """Bring the pipeline up to date, independent stages side by side."""
    options = Options(only=tuple(only or ()), retries=retries, runner=runner, parallel=parallel)
    sys.exit(run(options, Path.cwd(), Console()))


if __name__ == "__main__":
    cli.run(main)
