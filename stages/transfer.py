"""Stage `transfer`: runs trained on sentences of one data set, tested on those of another without fine-tuning.

Gavrilyuk et al. 2018, section 5.2 and table 2: trained on A2D Sentences, tested on J-HMDB Sentences. Reads
data/transfer_data and data/train. Tests the plain runs of some methods on sentences. Writes data/transfer: tested.csv
(a run a row), and <run>/ with metrics.json and predictions/, as `evaluate` does. The label spaces of the two data sets
have nothing to do with each other: a method on sentences knows no classes.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from models.methods import ON_SENTENCES
from stages.core import cli, runs
from stages.core.datasets import dataset
from stages.core.inference import answers
from stages.core.params import Section, load
from stages.core.scores import resampling, segmentation
from stages.core.training import weights

TESTED = "tested.csv"
COLUMNS = ("run", "overall_iou", "scored", "of")


class Parameters(Section):
    """Section ``transfer`` of params.yaml."""

    methods: tuple[str, ...]


def run(
    parameters: Parameters,
    scoring: segmentation.Parameters,
    all_runs: Iterable[runs.Run],
    *,
    data: Path = Path("data"),
    output: Path = Path("data/transfer"),
) -> dict[str, dict[str, Any]]:
    """Ask plain runs the sentences of data/transfer_data; gives run -> scores.

    Raises ``ValueError`` for a method that takes no sentences, for a run that is not trained, and for flow of a recipe
    that the new data has not.
    """
    if wrong := sorted(set(parameters.methods) - set(ON_SENTENCES)):
        raise ValueError(
            f"transfer.methods: {', '.join(wrong)}: no methods on sentences; {', '.join(ON_SENTENCES)} are"
        )
    chosen = [run_ for run_ in all_runs if run_.method in parameters.methods and run_.variant == runs.FULL]
    found = {run_.name: _test(run_, scoring, data, output / run_.name) for run_ in chosen}
    rows = [
        (name, result["sentences"]["overall_iou"], result["coverage"]["scored"], result["coverage"]["of"])
        for name, result in found.items()
    ]
    output.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).round(4).to_csv(output / TESTED, index=False)
    return found


def _test(run_: runs.Run, scoring: segmentation.Parameters, data: Path, folder: Path) -> dict[str, Any]:
    new = data / "transfer_data"
    flow = None if run_.flow is None else new / "optical_flow" / run_.flow.name
    if flow is not None and not flow.exists():
        raise ValueError(f"{run_.name} has learned from flow of {flow.name}: add that to transfer_data.recipes")
    weights.digest(data / "train" / run_.name, stage="train")  # raises where nothing is trained
    samples = dataset.load(new / "index", new / "frames", split="test", flow=flow)
    result = answers.evaluate(run_, samples, scoring, data=data, folder=folder, stage=f"transfer-{run_.name}")
    (folder / "metrics.json").write_text(json.dumps(resampling.rounded(result), indent=2) + "\n")
    overall, coverage = result["sentences"]["overall_iou"], result["coverage"]
    print(f"{run_.name}: overall IoU {overall:.1f}; scored {coverage['scored']} of {coverage['of']}")
    return result


def main() -> None:
    """Test runs of params.yaml on the data set of transfer_data."""
    run(load("transfer", Parameters), load("evaluate", segmentation.Parameters), runs.all_runs().values())


if __name__ == "__main__":
    cli.run(main)
