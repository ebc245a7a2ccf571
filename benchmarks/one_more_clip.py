"""One clip added over the whole from nothing, on index, frames and optical_flow: what the item cache saves."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import workspace
from benchmarks.ratio import Ratio, seconds
from stages.core import cli, workers


def measure(folder: Path, *, clips: int = 40, height: int = 128) -> Ratio:
    """`dvc repro optical_flow` on ``clips`` clips from nothing, then with one more (copying it in is not timed)."""
    test = max(1, clips // 4)
    videos = workspace.make_release(
        folder / "release", train=clips + 1 - test, test=test, height=height, processes=workers.cores()
    )
    few = workspace.take(folder / "release", folder / "few", videos[1:])
    project = workspace.make(folder / "one_more_clip", few)
    whole = seconds(lambda: project.dvc("repro", "optical_flow"))
    project.put(folder / "release")
    one_more = seconds(lambda: project.dvc("repro", "optical_flow"))
    return Ratio(
        name="one_more_clip",
        claim="one clip more over all of them, index to optical_flow",
        seconds=one_more,
        against=whole,
        of=f"1 and {clips} clips of height {height}",
    )


def main(
    clips: Annotated[int, typer.Option(help="generated clips", min=2)] = 40,
    height: Annotated[int, typer.Option(help="of the clips, in pixels")] = 128,
) -> None:
    """One clip added over the whole from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder), clips=clips, height=height))


if __name__ == "__main__":
    cli.run(main)
