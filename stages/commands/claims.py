"""``python -m stages.commands.claims add|show --paper=dang2018``: what a paper says of its method, put to the test over
seeds.

``add`` lists the runs that the claims need in params.yaml, and what they read, beside what stands there; the pipeline
computes them as it does any run, so a killed one goes on. ``show`` reads data/report/results.csv and says of each claim
by how much it holds, or that it fails; of a claim of one seed also within which interval over the test clips, from
data/evaluate. `make claims PAPER=dang2018` does both, and the runs in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
import typer

from stages.core import cli
from stages.core.datasets import dataset
from stages.core.params import PARAMS, edited, load
from stages.core.reporting.claims import Claim, Setting, needed, of_paper
from stages.core.reporting.ledger import SENTENCE, paper_of
from stages.core.reporting.results import ANSWERS, answered_by_both, on_same_clips, read_confusions
from stages.core.scores import resampling, segmentation

SEEDS = (0, 1, 2)
DATA = Path("data")
RESULTS = DATA / "report/results.csv"
FLOW = "data/optical_flow/dis-forward"
"""What runs on flow read, where params.yaml has no run of the baseline to take it from."""


def add(paper: str, path: Path = PARAMS) -> list[str]:
    """List in ``path`` what the claims of ``paper`` need; returns the runs that were not there. Keeps its comments."""
    sides = needed(paper)
    with edited(path) as content:
        return _add(sides, content)


def _add(sides: Mapping[Setting, int], content: Any) -> list[str]:
    runs, fronts, sources = content["runs"], content["features"]["fronts"], content["regions"]["sources"]
    added = []
    for side, seeds in sides.items():
        baseline = runs.get(Setting("deeplab", "rgb+flow" if "flow" in side.inputs else "rgb").name(SEEDS[0]))
        reads = baseline["reads"] if baseline else FLOW if "flow" in side.inputs else "data/frames"
        source = "fcis-other" if side.variant == "other_masks" else "fcis-own"
        for seed in SEEDS[:seeds]:
            front = Setting("deeplab", side.inputs).name(seed)
            if side.method == "region_masks":
                entry = {"method": side.method, "reads": f"data/features/{front}", "regions": f"data/regions/{source}"}
                fronts.setdefault(front, {"reads": reads})
                sources.setdefault(source, {"reads": f"data/train_regions/{source}"})
                content["train_regions"]["segmenters"].setdefault(source, {})
            else:
                entry = {"method": side.method, "reads": reads, "regions": "data/frames"}
            if side.name(seed) not in runs:
                runs[side.name(seed)] = entry
                added.append(side.name(seed))
    return added


def lines(paper: str, results: pd.DataFrame, bootstrap: resampling.Parameters, *, data: Path = DATA) -> list[str]:
    """Markdown: a line a claim, by how many points it holds, how sure that is, and in how many seeds."""
    values = results.set_index(["method", "inputs", "variant", "seed", "metric"])["value"]
    found = [
        f"Claims of {paper_of(paper)}, each over the seeds that were run: points by which it holds.",
        "",
        "| claim | mean | over seeds, or of one 95 % over clips | holds in |",
        "|---|---:|---:|---:|",
    ]
    for claim in of_paper(paper):
        ahead = list(_differences(claim, values))
        if not ahead:
            found.append(f"| {claim.text} | not run | | |")
            continue
        holds, mean = sum(difference > 0 for difference in ahead), sum(ahead) / len(ahead)
        low, high = (min(ahead), max(ahead)) if claim.seeds > 1 else _interval(claim, data, bootstrap)
        found.append(f"| {claim.text} | {mean:+.1f} | {low:+.1f} to {high:+.1f} | {holds} of {len(ahead)} |")
    return found


def _differences(claim: Claim, values: Any) -> Iterator[float]:
    """One for each seed with which both sides were run; metrics that are not defined in either are left out."""

    def mean(seed: int, metrics: Sequence[str]) -> float:
        sides = [
            values.reindex([(side.method, side.inputs, side.variant, seed, metric) for metric in metrics]).to_numpy()
            for side in (claim.better, claim.worse)
        ]
        return float(pd.Series(sides[0] - sides[1]).mean())

    for seed in SEEDS[: claim.seeds]:
        difference = mean(seed, claim.metrics) - (mean(seed, claim.than) if claim.than else 0.0)
        if not pd.isna(difference):
            yield difference


@dataclass(frozen=True)
class _Mean:
    """The mean of some scores of ``evidence``, as evidence of one number."""

    evidence: resampling.Evidence
    metrics: Sequence[str]

    @property
    def clips(self) -> Sequence[str]:
        return self.evidence.clips

    def measure(self, weights: np.ndarray) -> resampling.Values:
        found = self.evidence.measure(weights)
        return {"mean": float(pd.Series([found[metric.removeprefix(SENTENCE)] for metric in self.metrics]).mean())}

    def joined(self, other: Self) -> Self:
        return type(self)(self.evidence.joined(other.evidence), self.metrics)


def _interval(claim: Claim, data: Path, bootstrap: resampling.Parameters) -> tuple[float, float]:
    """95 % of the difference over the test clips that both sides have."""
    first, second = (data / "evaluate" / side.name(SEEDS[0]) for side in (claim.better, claim.worse))
    about_sentences = {metric.startswith(SENTENCE) for metric in claim.metrics}
    assert len(about_sentences) == 1, "evidence of sentences and of label maps can't be pooled"
    sides: Sequence[resampling.Evidence]
    if about_sentences.pop():
        sides = answered_by_both(first / ANSWERS, second / ANSWERS, data / "index")
    else:
        space = dataset.read_description(data / "index").label_space
        sides = on_same_clips(read_confusions(first, space), read_confusions(second, space))
    better, worse = (_Mean(side, claim.metrics) for side in sides)
    difference = resampling.paired(better, worse, bootstrap)["mean"]
    return difference.low, difference.high


def main(
    what: Annotated[str, typer.Argument(help="add or show")],
    paper: Annotated[str, typer.Option(help="dang2018, gavrilyuk2018, ji2018 or rana2021, or the paper's method")],
) -> None:
    """List the runs of a paper's claims, or show how they came out."""
    if what == "add":
        added = add(paper)
        print(f"claims: {len(added)} runs added to {PARAMS}" + "".join(f"\n  {name}" for name in added))
    elif what == "show":
        if not RESULTS.exists():
            raise ValueError(f"{RESULTS} not found: run `make claims PAPER={paper}`")
        results = pd.read_csv(RESULTS)
        own = results[results["dataset"] == dataset.name()]  # and not those of a data set that no run was trained on
        print("\n".join(lines(paper, own, load("evaluate", segmentation.Parameters))))
    else:
        raise ValueError(f"`{what}`: write add or show")


if __name__ == "__main__":
    cli.run(main)
