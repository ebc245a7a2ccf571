"""Feeding a training: what augmented windows cost beyond decoding them, and how long a training waits for them.

The clips are of A2D's height, with flow. `feeding` is one loading process over a loop in this process that reads the
same windows (JPEG and flow to arrays) and does nothing else: the decode limit. `waiting` is the share of a `small`
deeplab's training (RGB + flow) that is spent waiting for the next batch, as params.yaml has it: one loading process.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cv2
import torch
import typer

from benchmarks import workspace
from benchmarks.ratio import Ratio, seconds
from models import deeplab
from models.parts.network import channels_last
from stages.core import cli, workers
from stages.core.batches import window_batches, windows
from stages.core.batches.sampler import Sampler
from stages.core.datasets import dataset
from stages.core.training import loop

BATCH = 8
WARM_UP = 2
"""Batches that are not timed: the loading process starts, files come into memory."""


def measure_feeding(folder: Path, *, clips: int = 8, height: int = 320, steps: int = 20) -> Ratio:
    """Seconds of ``steps`` batches of the paper's deeplab from one loading process, over decoding their windows."""
    samples = _samples(folder, clips, height)
    config = replace(deeplab.paper, crop=(320, 320))
    total = WARM_UP + steps
    batches = window_batches.training_batches(samples, config, seed=0, start=0, steps=total, batch=BATCH, loaders=1)
    for _ in range(WARM_UP):
        next(batches)
    fed = seconds(lambda: [next(batches) for _ in range(steps)])
    drawn = Sampler(len(samples.frames), batch=BATCH, seed=0, start=WARM_UP, steps=total)
    frames = [samples.frames[position] for step in drawn for _, position in step]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        decoded = seconds(
            lambda: [windows.read(samples, one.video, windows.numbers(one.frame, config.window)) for one in frames]
        )
    finally:
        cv2.setNumThreads(threads)
    return Ratio(
        name="feeding",
        claim="augmented, encoded batches of one loading process over decoding their windows",
        seconds=fed,
        against=decoded,
        of=f"{steps * BATCH} windows with flow of clips of height {height}",
    )


def measure_waiting(folder: Path, *, clips: int = 8, height: int = 320, steps: int = 30) -> Ratio:
    """Seconds that ``steps`` steps of deeplab `small` wait for their batches, over the seconds of the training."""
    samples = _samples(folder, clips, height)
    config = replace(deeplab.small, training=replace(deeplab.small.training, steps=WARM_UP + steps))
    torch.manual_seed(0)
    network = channels_last(deeplab.build(config, samples.label_space))
    batches = window_batches.training_batches(
        samples, config, seed=0, start=0, steps=WARM_UP + steps, batch=config.training.batch, loaders=1
    )
    for _ in range(WARM_UP):
        next(batches)
    waiting = loop.Waiting()
    fitted = replace(config.training, steps=steps)
    checkpointing = loop.Checkpointing(key="waiting", seconds=1e9, folder=folder)
    whole = seconds(
        lambda: loop.fit(
            "waiting",
            network,
            network.loss,
            network.parameter_groups(),
            lambda start: batches,
            fitted,
            seed=0,
            checkpointing=checkpointing,
            waiting=waiting,
        )
    )
    return Ratio(
        name="waiting",
        claim="waiting for batches over the training, deeplab `small`, RGB + flow",
        seconds=waiting.seconds,
        against=whole,
        of=f"{steps} steps of {config.training.batch} frames of clips of height {height}",
    )


def _samples(folder: Path, clips: int, height: int) -> dataset.Dataset:
    """Generated clips, decoded and with flow, by the project's own stages."""
    workspace.make_release(folder / "release", train=clips - 1, test=1, height=height, processes=workers.cores())
    project = workspace.make(folder / "project", folder / "release")
    project.dvc("repro", "optical_flow")
    data = project.root / "data"
    return dataset.load(data / "index", data / "frames", split="train", flow=data / "optical_flow" / "dis-forward")


def main(
    clips: Annotated[int, typer.Option(help="generated clips", min=2)] = 8,
    height: Annotated[int, typer.Option(help="of the clips, in pixels")] = 320,
    steps: Annotated[int, typer.Option(help="batches", min=1)] = 20,
) -> None:
    """Feeding a training against the decode limit, and what the training waits."""
    for measure in (measure_feeding, measure_waiting):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(Path(folder), clips=clips, height=height, steps=steps))


if __name__ == "__main__":
    cli.run(main)
