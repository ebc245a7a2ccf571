"""No-op `dvc repro` over `dvc status`: what an up-to-date pipeline costs beyond finding out that it is up to date."""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import workspace
from benchmarks.ratio import Ratio, seconds
from stages.core import cli


def measure(folder: Path, *, clips: int = 8, runs: int = 0, repeats: int = 3) -> Ratio:
    """Bring the whole pipeline up to date on ``clips`` clips with the first ``runs`` runs (0: all); then time both."""
    test = max(1, clips // 4)
    workspace.make_release(folder / "release", train=clips - test, test=test, height=48)
    chosen = workspace.names_of_runs()[: runs or None]
    project = workspace.make(folder / "noop", folder / "release", runs=chosen)
    project.dvc("repro")
    project.dvc("status")
    pairs = [(seconds(lambda: project.dvc("repro")), seconds(lambda: project.dvc("status"))) for _ in range(repeats)]
    return Ratio(
        name="noop",
        claim="no-op `dvc repro` over `dvc status`",
        seconds=statistics.median(repro for repro, _ in pairs),
        against=statistics.median(status for _, status in pairs),
        of=f"{clips} clips, {len(chosen)} runs",
    )


def main(
    clips: Annotated[int, typer.Option(help="generated clips", min=2)] = 8,
    runs: Annotated[int, typer.Option(help="of params.yaml; 0: all")] = 0,
    repeats: Annotated[int, typer.Option(help="the median counts", min=1)] = 3,
) -> None:
    """No-op `dvc repro` over `dvc status`."""
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder), clips=clips, runs=runs, repeats=repeats))


if __name__ == "__main__":
    cli.run(main)
