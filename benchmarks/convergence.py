"""Does SSA-masking make SSA2D converge sooner? Steps to a fixed score with it and without, and what a step costs (Rana
and Rawat 2021, section 4.4: some three times faster, with no word on how that was measured).

Both learn on the train clips of data/ but every fifth one, on which action mean IoU is measured as they learn. The
learning rate is constant, so that a score does not depend on where the training would end. The score to reach is a
share of the best that the one without masking gets.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from models import ssa2d
from models.base import Predictions, configuration
from models.parts.network import channels_last, load_encoder
from stages.core import cli
from stages.core.batches import transforms, window_batches, windows
from stages.core.datasets import dataset
from stages.core.runs import FULL
from stages.core.scores.confusion import all_scores, confusion
from stages.core.training import loop

WITHOUT = "without_ssa_masking"
HELD_OUT = 5
"""Every fifth clip is."""
SHARE = 0.9


@dataclass(frozen=True)
class Learned:
    """How one training went."""

    scores: dict[int, float]  # step -> action mean IoU on held-out clips, percent
    seconds: float  # a step, without the measuring

    def steps_to(self, score: float) -> int | None:
        """The first measured step that reaches ``score``; None where none does."""
        return next((step for step, found in self.scores.items() if found >= score), None)


def measure(data: Path, *, steps: int, every: int, seed: int) -> dict[str, Learned]:
    """Variant -> how its training of ``steps`` steps went on the data set in ``data``, measured ``every`` steps."""
    samples = dataset.load(data / "index", data / "frames", split="train")
    held_out = set(samples.videos[::HELD_OUT])
    learned, tested = (
        replace(samples, frames=tuple(f for f in samples.frames if (f.video in held_out) == kept))
        for kept in (False, True)
    )
    return {
        variant: _train(variant, learned, tested, data / "pretrain", steps=steps, every=every, seed=seed)
        for variant in (FULL, WITHOUT)
    }


def _train(
    variant: str,
    samples: dataset.Dataset,
    tested: dataset.Dataset,
    weights: Path,
    *,
    steps: int,
    every: int,
    seed: int,
) -> Learned:
    torch.manual_seed(seed)
    config = configuration(ssa2d, "small", inputs="rgb", variant=variant)
    config = replace(config, training=replace(config.training, steps=steps, schedule="step:0:1"))
    network = ssa2d.build(config, samples.label_space)
    for slot, encoder in network.encoder_slots().items():
        state = torch.load(weights / f"{slot}.pt", weights_only=True, map_location="cpu")
        load_encoder(encoder, state, where=str(weights / f"{slot}.pt"))
    channels_last(network)
    found: dict[int, float] = {}
    measuring = 0.0

    def log(step: int, values: dict[str, float]) -> None:
        nonlocal measuring
        del values
        if step % every == 0:
            began = time.monotonic()
            found[step] = _score(network, config, tested)
            measuring += time.monotonic() - began
            print(f"{variant}, seed {seed}, step {step}: {found[step]:.1f}", flush=True)

    def batches(start: int) -> Any:
        size = config.training.batch
        return window_batches.training_batches(
            samples, config, seed=seed, start=start, steps=steps, batch=size, loaders=1
        )

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            variant, network, network.loss, network.parameter_groups(), batches, config.training, seed=seed,
            checkpointing=loop.Checkpointing(key=variant, seconds=float("inf"), folder=Path(folder)), log=log,
        )  # fmt: skip
    return Learned(found, (time.monotonic() - began - measuring) / steps)


def _score(network: Any, config: Any, tested: dataset.Dataset) -> float:
    """Action mean IoU over the annotated frames of ``tested``, each in a window around it."""
    space = tested.label_space
    matrix = np.zeros((space.ids, space.ids), np.int64)
    network.eval()
    for frame in tested.frames:
        window = windows.read(tested, frame.video, windows.numbers(frame.frame, config.window))
        sample = transforms.to_height(window, config.height)
        predicted: Predictions = network.predict(window_batches.to_batch([sample], encoding=config.flow_encoding))
        matrix += confusion(sample.labels[config.window.before], predicted.joint[0].numpy(), classes=space.ids)
    network.train()
    return all_scores(matrix, space)["action"].mean_iou


def steps_saved(found: dict[str, Learned]) -> tuple[float, int | None, int | None]:
    """The score to reach, and after how many steps each reached it: with masking, without."""
    score = SHARE * max(found[WITHOUT].scores.values())
    return score, found[FULL].steps_to(score), found[WITHOUT].steps_to(score)


def main(
    steps: Annotated[int, typer.Option(help="of each training", min=10)] = 280,
    every: Annotated[int, typer.Option(help="steps between two measurements", min=1)] = 28,
    seeds: Annotated[int, typer.Option(help="trainings of each", min=1)] = 3,
    data: Annotated[Path, typer.Option(help="the folder that the stages index, frames and pretrain wrote into")] = Path(
        "data"
    ),
) -> None:
    """Train SSA2D with SSA-masking and without, and compare how soon each learns."""
    table = Table("seed", "action mean IoU", "steps with", "steps without", "seconds a step with", "without")
    for seed in range(seeds):
        found = measure(data, steps=steps, every=every, seed=seed)
        score, *reached = steps_saved(found)
        cells: Sequence[str] = ["not reached" if step is None else str(step) for step in reached]
        table.add_row(str(seed), f"{score:.1f}", *cells, *(f"{learned.seconds:.2f}" for learned in found.values()))
    Console().print(table)


if __name__ == "__main__":
    cli.run(main)
