"""Backends of optical flow side by side: endpoint error, Fl-all and milliseconds a pair, on the same pairs in one run.

The pairs are generated at A2D's usual size, from a pool that no training saw. FlowNets are those of data/train_flow,
where they are, and of the published size with random weights for their time alone (`... paper`: no error is shown).
"""

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from models.parts import flownet
from models.parts.network import channels_last
from stages import evaluate_flow
from stages.core import cli
from stages.core.generator.pairs import make_pair
from stages.core.optical_flow import backends, classical, networks
from stages.core.scores.flow import FlowErrors
from stages.core.scores.resampling import values


def measure(
    trained: Path, *, pairs: int = 6, height: int = 320, width: int = 568, paper: bool = True
) -> list[tuple[str, float, float, float]]:
    """(backend, endpoint error, Fl-all, ms a pair); errors are NaN where weights are random."""
    made = [make_pair(5, number, height=height, width=width, pool=evaluate_flow.POOL) for number in range(pairs)]
    rows = []
    for name in (*classical.NAMES, *(n for n in networks.NAMES if (trained / n / "model.pt").exists())):
        estimate = backends.open_trained(name, trained)
        errors, times = FlowErrors(), []
        for number, pair in enumerate(made):
            began = time.perf_counter()
            flow = estimate(pair.first[None], pair.second[None])[0]
            times.append(time.perf_counter() - began)
            errors.add(str(number), pair.flow, flow)
        found = values(errors.evidence())
        rows.append((name, found["all/endpoint_error"], found["all/fl_all"], 1000 * statistics.median(times)))
    return rows + [(f"{name} paper", np.nan, np.nan, _paper_ms(name, made)) for name in networks.NAMES if paper]


def _paper_ms(name: str, made: list) -> float:  # type: ignore[type-arg]
    network: Any = channels_last(flownet.build(flownet.configuration(name, "paper"))).eval()
    times = []
    for pair in made[:3]:
        batch = flownet.Pairs(first=torch.from_numpy(pair.first[None]), second=torch.from_numpy(pair.second[None]))
        began = time.perf_counter()
        network.predict(batch)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def main(
    trained: Annotated[Path, typer.Option(help="output of the stage `train_flow`")] = Path("data/train_flow"),
    pairs: Annotated[int, typer.Option(help="generated pairs", min=1)] = 6,
) -> None:
    """Endpoint error, Fl-all and time of every backend."""
    table = Table("backend", "endpoint error, pixels", "Fl-all, %", "ms a pair", title="320 x 568, pairs alike for all")
    for name, error, wrong, milliseconds in measure(trained, pairs=pairs):
        table.add_row(name, f"{error:.2f}", f"{wrong:.1f}", f"{milliseconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    cli.run(main)
