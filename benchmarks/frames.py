"""Stage `frames`, cold, over a plain PyAV decode loop on the same clips: what packed JPEG frames cost beyond decoding.

Both are whole processes, with their start and imports, and the faster of two tries counts; the loop keeps nothing.
"""

import csv
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import workspace
from benchmarks.ratio import Ratio, seconds
from stages.core import cli, workers
from stages.core.datasets import a2d

PLAIN_LOOP = """
import sys
from pathlib import Path
import av
for path in sorted(Path(sys.argv[1]).glob("*.mp4")):
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frame.to_ndarray(format="bgr24")
"""


def measure(folder: Path, *, clips: int = 8, height: int = 240, copies: int = 16) -> Ratio:
    """Generate ``clips`` clips, lay each out ``copies`` times under names of its own, and decode all both ways."""
    test = max(1, clips // 4)
    release = folder / "release"
    workspace.make_release(release, train=clips - test, test=test, height=height, processes=workers.cores())
    _multiply(release, copies)
    project = workspace.make(folder / "frames", release)
    project.dvc("repro", "index")
    clips_folder = str(project.root / "data" / "raw" / "Release" / "clips320H")

    def stage_from_nothing() -> float:
        shutil.rmtree(project.root / ".items" / "frames", ignore_errors=True)
        return seconds(lambda: project.run("-m", "stages.frames"))

    # In turn: the first try of either also brings files into memory.
    pairs = [(seconds(lambda: project.run("-c", PLAIN_LOOP, clips_folder)), stage_from_nothing()) for _ in range(2)]
    return Ratio(
        name="frames",
        claim="stage `frames` from a cold cache over a plain decode loop",
        seconds=min(stage for _, stage in pairs),
        against=min(plain for plain, _ in pairs),
        of=f"{clips * copies} clips of height {height}",
    )


def _multiply(release: Path, copies: int) -> None:
    """Add ``copies - 1`` of every clip, each of other bytes (a free box at its end) and without annotations."""
    table = release / a2d.VIDEOSET
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    for video, *fields, _, split in list(rows):
        clip = (release / a2d.CLIPS_FOLDER / f"{video}.mp4").read_bytes()
        for number in range(1, copies):
            free_box = struct.pack(">I4sI", 12, b"free", number)
            (release / a2d.CLIPS_FOLDER / f"{video}-{number}.mp4").write_bytes(clip + free_box)
            rows.append([f"{video}-{number}", *fields, "0", split])
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def main(
    clips: Annotated[int, typer.Option(help="generated clips", min=2)] = 8,
    height: Annotated[int, typer.Option(help="of the clips, in pixels")] = 240,
    copies: Annotated[int, typer.Option(help="of each clip", min=1)] = 16,
) -> None:
    """Stage `frames` over a plain PyAV decode loop."""
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder), clips=clips, height=height, copies=copies))


if __name__ == "__main__":
    cli.run(main)
