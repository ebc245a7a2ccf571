"""``python -m benchmarks`` (`make bench`): every ratio that the project claims, in one table."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import (
    confusion,
    feeding,
    frames,
    inference,
    noop,
    one_more_clip,
    region_to_pixel,
    sentences,
    stages_side_by_side,
    threads,
)
from benchmarks.ratio import Ratio
from stages.core import cli, workers
from stages.core.params import nearest


def benchmarks(clips: int) -> dict[str, Callable[[Path], Ratio]]:
    """Name -> measurement in a folder of its own; ``clips`` of the largest, the others have their share of it."""
    return {
        "noop": partial(noop.measure, clips=max(2, clips // 5)),
        "confusion_torchmetrics": lambda folder: confusion.measure(against="torchmetrics"),
        "confusion_bincount": lambda folder: confusion.measure(against="bincount"),
        "sentences": lambda folder: sentences.measure(),
        "region_to_pixel": lambda folder: region_to_pixel.measure(),
        "inference": lambda folder: inference.measure(),
        "inference_bfloat16": lambda folder: inference.measure(precision="bfloat16"),
        "inference_checked": lambda folder: inference.measure_checked(),
        "frames": partial(frames.measure, clips=max(2, clips // 5)),
        "stages_side_by_side": stages_side_by_side.measure,
        "threads": partial(threads.measure, clips=max(2, clips // 5)),
        "feeding": partial(feeding.measure_feeding, clips=max(2, clips // 5)),
        "waiting": partial(feeding.measure_waiting, clips=max(2, clips // 5)),
        "one_more_clip": partial(one_more_clip.measure, clips=max(2, clips)),
    }


def run(clips: int, only: list[str]) -> list[Ratio]:
    """Measure one after the other; raises ``ValueError`` for a benchmark that does not exist."""
    known = benchmarks(clips)
    for name in only:
        if name not in known:
            raise ValueError(f"no benchmark `{name}`{nearest(name, list(known))}")
    found = []
    for name, measure in known.items():
        if not only or name in only:
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(Path(folder)))
            print(found[-1], flush=True)
    return found


def main(
    only: Annotated[list[str] | None, typer.Argument(help="some of them, by name")] = None,
    clips: Annotated[int, typer.Option(help="generated clips of the largest; fewer are faster", min=2)] = 40,
) -> None:
    """Measure every ratio that the project claims; some minutes on two cores."""
    table = Table("benchmark", "ratio", "seconds", "against", "of what", title="Ratios of this run, smaller is better")
    for column in table.columns[:4]:
        column.no_wrap = True
    ratios = run(clips, only or [])
    for ratio in ratios:
        times = (f"{ratio.value:.2f}", f"{ratio.seconds:.2f}", f"{ratio.against:.2f}")
        table.add_row(ratio.name, *times, f"{ratio.claim}: {ratio.of}")
    console = Console()
    console.print(table)
    load = os.getloadavg()[0]
    if load > 2 * workers.cores():
        console.print(f"the machine was busy with other work (load {load:.1f}): ratios of small times are rough")


if __name__ == "__main__":
    cli.run(main)
