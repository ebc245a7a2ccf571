"""Stage `transfer`: a run trained on sentences of one data set, tested on those of another without fine-tuning.

Gavrilyuk et al. 2018, section 5.2 and table 2: trained on A2D Sentences, tested on J-HMDB Sentences. Reads
data/transfer_data and data/train/<run>. Writes data/transfer/<run>: metrics.json and predictions/ (as `evaluate` does).
The label spaces of the two data sets have nothing to do with each other: a method on sentences knows no classes.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from models.methods import FIXED_VOCABULARY, ON_SENTENCES
from stages.core import answers, cli, dataset, runs
from stages.core.params import Section, load
from stages.core.scores import resampling, segmentation


class Entry(Section):
    """One entry of ``transfer.runs``: the method of that run, as in ``runs``."""

    method: str


class Parameters(Section):
    """Section ``transfer`` of params.yaml."""

    runs: dict[str, Entry]


def run(
    run_: runs.Run,
    parameters: segmentation.Parameters,
    *,
    data: Path = Path("data"),
    output: Path = Path("data/transfer"),
) -> dict[str, Any]:
    """Ask ``run_`` the sentences of data/transfer_data and score its answers.

    Raises ``ValueError`` for a run that takes no sentences, or flow of a recipe that the new data has not.
    """
    if run_.method not in ON_SENTENCES or run_.variant == FIXED_VOCABULARY:
        raise ValueError(
            f"transfer.runs: {run_.name} knows the classes of its own data set only; list runs on sentences "
            f"({', '.join(ON_SENTENCES)}), not of variant {FIXED_VOCABULARY}"
        )
    new = data / "transfer_data"
    flow = None if run_.flow is None else new / "optical_flow" / run_.flow.name
    if flow is not None and not flow.exists():
        raise ValueError(f"{run_.name} has learned from flow of {flow.name}: add that to transfer_data.recipes")
    samples = dataset.load(new / "index", new / "frames", split="test", flow=flow)
    folder = output / run_.name
    result = answers.evaluate(run_, samples, parameters, data=data, folder=folder, stage=f"transfer-{run_.name}")
    (folder / "metrics.json").write_text(json.dumps(resampling.rounded(result), indent=2) + "\n")
    print(
        f"{run_.name}, without fine-tuning: overall IoU {result['sentences']['overall_iou']:.1f} over "
        f"{result['coverage']['scored']} of {result['coverage']['of']} samples"
    )
    return result


def main(
    run_name: Annotated[str, typer.Option("--run", help="one of transfer.runs, for example sentence-rgb+flow-full-0")],
) -> None:
    """Test one run of transfer.runs on the data set of transfer_data."""
    entries = load("transfer", Parameters).runs
    if run_name not in entries:
        raise ValueError(f"transfer.runs has no `{run_name}`; there are {', '.join(entries)}")
    chosen = runs.named(run_name)
    if entries[run_name].method != chosen.method:
        raise ValueError(f"transfer.runs.{run_name}: make its method `{chosen.method}`")
    run(chosen, load("evaluate", segmentation.Parameters))


if __name__ == "__main__":
    cli.run(main)
