"""The training loop: steps, checkpoints, learning curves. One loop for pretraining and for every method.

A checkpoint lies outside DVC's outputs, under the key of the training (its inputs, parameters, code and libraries), so
a killed training goes on where it was, with the same batches and the same random state, and ends with the same weights
as one that was never killed. A finished training that is asked for again is read from its last checkpoint.
"""

import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from models.parts.network import Training, to_device
from stages.core import cli, items, numerics

WARM_UP = 0.1
"""Share of the steps over which `cosine` raises the learning rate from zero."""

Batches = Callable[[int], Iterator[Any]]
"""``batches(start)`` yields the batches of step ``start`` and on."""
Log = Callable[[int, dict[str, float]], None]


@dataclass
class Waiting:
    """How long a training waited for its batches."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often a training is saved."""

    key: str
    seconds: float
    folder: Path = items.CACHE / "checkpoints"

    @property
    def path(self) -> Path:
        """The one checkpoint of this training."""
        return self.folder / f"{self.key}.pt"


def fit(
    name: str,
    network: nn.Module,
    loss: Callable[[Any], dict[str, Tensor]],
    groups: dict[str, list[nn.Parameter]],
    batches: Batches,
    training: Training,
    *,
    seed: int,
    checkpointing: Checkpointing,
    log: Log | None = None,
    waiting: Waiting | None = None,
) -> list[dict[str, float]]:
    """Train ``network`` in place; return its learning curve (a row every hundredth of the way).

    ``groups`` are the parameters by the names in ``training.learning_rates``; ``waiting`` is told how long batches were
    waited for. Of two processes with one training the second waits, and reads what the first learned.
    Raises ``ValueError`` when the loss is no longer finite.
    """
    waiting = waiting or Waiting()
    checkpointing.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(checkpointing.path.with_suffix(".lock")), cli.progress() as progress:
        torch.manual_seed(seed)
        began = time.monotonic()
        rates = [training.learning_rates[group] for group in groups]
        optimiser = _optimiser(training, list(groups.values()), rates)
        curve: list[dict[str, float]] = []
        start = 0
        device = next(network.parameters()).device
        if checkpointing.path.exists():
            saved = torch.load(checkpointing.path, weights_only=True, map_location="cpu")
            network.load_state_dict(saved["network"])
            optimiser.load_state_dict(saved["optimiser"])
            restore_random_state(saved["random"], device)
            start, curve = saved["step"], saved["curve"]
            print(f"{name}: goes on from step {start} of {training.steps}")
            if log is not None:
                for row in curve:
                    log(int(row["step"]), {key: value for key, value in row.items() if key != "step"})
        every = max(1, training.steps // 100)
        sums: dict[str, float] = {}
        saved_at = time.monotonic()
        network.train()
        stream = batches(start) if start < training.steps else iter(())
        looked_after = numerics.Rehearsed()
        bar = progress.add_task(name, total=training.steps, completed=start)
        for step in range(start, training.steps):
            factor = learning_rate_factor(training, step)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            asked = time.monotonic()
            batch = next(stream)
            waiting.seconds += time.monotonic() - asked
            optimiser.zero_grad(set_to_none=True)
            with looked_after(batch):
                losses = loss(to_device(batch, device))
                losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
            optimiser.step()
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            if not math.isfinite(sums["loss"]) or not math.isfinite(norm):
                raise ValueError(
                    f"{name}: the loss is no number, or its gradient, at step {step + 1}; lower the learning rate in "
                    "params.yaml"
                )
            if (step + 1) % every == 0:
                row = {"step": step + 1, **{key: value / every for key, value in sums.items()}}
                curve.append(row)
                sums = {}
                if log is not None:
                    log(step + 1, {key: value for key, value in row.items() if key != "step"})
            progress.update(bar, completed=step + 1)
            due = time.monotonic() - saved_at > checkpointing.seconds
            # Only where a row of the curve ends, so that a resumed curve has the same rows.
            if step + 1 == training.steps or (due and (step + 1) % every == 0):
                _save(checkpointing.path, network, optimiser, step + 1, curve, random_state(device))
                saved_at = time.monotonic()
    network.eval()
    if training.steps > start:
        print(f"{name}: {time.monotonic() - began:.0f} s, of which {waiting.seconds:.0f} s waiting for batches")
    return curve


def learning_rate_factor(training: Training, step: int) -> float:
    """Factor on the learning rates at ``step``: poly, cosine or step:<at>,<at>,...:<factor>."""
    done = step / training.steps
    if training.schedule == "poly":
        return (1 - done) ** 0.9
    if training.schedule == "cosine":
        if done < WARM_UP:
            return (step + 1) / (WARM_UP * training.steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
    kind, _, rest = training.schedule.partition(":")
    if kind == "step" and rest:
        at, _, factor = rest.partition(":")
        return float(factor) ** sum(step >= int(number) for number in at.split(","))
    raise ValueError(f"schedule `{training.schedule}`: write poly, cosine or step:<at>,<at>,...:<factor>")


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that a training on ``device`` draws from: the CPU's, and a GPU's own for dropout."""
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undo what was drawn since ``random_state``; a training that moved to or from a GPU keeps the CPU's alone."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def save_weights(path: Path, network: nn.Module) -> None:
    """State dict at ``path``, atomically; the same weights give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with part.open("wb") as file:  # a file, not a path: torch would write the temporary name into the archive
        torch.save(state, file)
    os.replace(part, path)


def write_curve(path: Path, curve: list[dict[str, float]]) -> None:
    """Learning curve as CSV, its first column ``step``, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(curve[0]) if curve else ["step", "loss"])
        writer.writeheader()
        for row in curve:
            writer.writerow({key: value if key == "step" else f"{value:.6g}" for key, value in row.items()})
    os.replace(part, path)


def _optimiser(training: Training, groups: list[list[nn.Parameter]], rates: list[float]) -> torch.optim.Optimizer:
    parameters = [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    if training.optimiser == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, weight_decay=training.weight_decay)
    if training.optimiser == "adam":
        return torch.optim.AdamW(parameters, weight_decay=training.weight_decay)
    raise ValueError(f"optimiser `{training.optimiser}`: write sgd or adam")


def _save(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    curve: list[dict[str, float]],
    random: dict[str, Tensor],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": random,
        "step": step,
        "curve": curve,
    }
    torch.save(state, part)
    os.replace(part, path)
