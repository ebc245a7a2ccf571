"""``python -m stages.claims add|show --paper=dang2018``: what a paper says of its method, put to the test over seeds.

``add`` lists the runs that the claims need in params.yaml, and what they read, beside what stands there; the pipeline
computes them as it does any run, so a killed one goes on. ``show`` reads data/report/results.csv and says of each claim
by how much it holds, or that it fails. `make claims PAPER=dang2018` does both, and the runs in between.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from stages.core import cli
from stages.core.labels import A2D
from stages.core.params import PARAMS, edited, nearest
from stages.core.results import KINDS
from stages.core.runs import FULL

SEEDS = (0, 1, 2)
RESULTS = Path("data/report/results.csv")


@dataclass(frozen=True)
class Setting:
    """A run without its seed."""

    method: str
    inputs: str
    variant: str = FULL

    def name(self, seed: int) -> str:
        """Of the run with ``seed``."""
        return f"{self.method}-{self.inputs}-{self.variant}-{seed}"


@dataclass(frozen=True)
class Claim:
    """``better`` is ahead of ``worse`` in the mean over ``metrics``; with ``than``, by more there than over those."""

    text: str
    better: Setting
    worse: Setting
    metrics: tuple[str, ...]
    than: tuple[str, ...] = ()


def _accuracies(chosen: Callable[[str, str], bool]) -> tuple[str, ...]:
    """Metrics of the valid pairs of actor and action that are ``chosen``."""
    pairs = [divmod(label, A2D.stride) for label in A2D.valid_ids[1:]]
    names = [(A2D.actors[actor], A2D.actions[action]) for actor, action in pairs]
    return tuple(f"accuracy/{actor}-{action}" for actor, action in names if chosen(actor, action))


BODY_PART = ("climbing", "crawling", "eating", "running", "walking")
"""Actions of limbs or head; the whole body flies, jumps, rolls, or rests."""
FAST = ("adult-jumping", "car-running", "ball-flying", "cat-running", "dog-jumping")
"""The pairs of which Dang et al. say that flow adds more than 10 points (section 4)."""
_BASELINE, _REGIONS = Setting("deeplab", "rgb+flow"), Setting("region_masks", "rgb+flow")
_RGB_BASELINE, _RGB_REGIONS = Setting("deeplab", "rgb"), Setting("region_masks", "rgb")
_MEANS = tuple(f"{kind}/{figure}" for kind in ("action", "joint") for figure in ("class_accuracy", "mean_iou"))
_ALL = tuple(f"{kind}/{figure}" for kind in KINDS for figure in ("global_accuracy", "class_accuracy", "mean_iou"))

CLAIMS = {
    "dang2018": (
        Claim("Regions beat the baseline for action and joint (table 1, RGB + flow)", _REGIONS, _BASELINE, _MEANS),
        Claim("Regions beat the baseline for action and joint (table 1, RGB)", _RGB_REGIONS, _RGB_BASELINE, _MEANS),
        Claim(
            "Regions help small actors more than large ones (section 4)",
            _REGIONS,
            _BASELINE,
            ("small/joint/class_accuracy",),
            than=("large/joint/class_accuracy",),
        ),
        Claim(
            "Regions help actions of a body part more than those of the whole body (section 4)",
            _REGIONS,
            _BASELINE,
            _accuracies(lambda _, action: action in BODY_PART),
            than=_accuracies(lambda _, action: action not in BODY_PART),
        ),
        Claim("Flow helps with regions (table 1)", _REGIONS, _RGB_REGIONS, _MEANS),
        Claim("Flow helps the baseline (table 1)", _BASELINE, _RGB_BASELINE, _MEANS),
        Claim(
            "Flow helps fast pairs most (table 5)",
            _REGIONS,
            _RGB_REGIONS,
            tuple(f"accuracy/{pair}" for pair in FAST),
            than=_accuracies(lambda actor, action: f"{actor}-{action}" not in FAST),
        ),
        Claim(
            "The baseline wins global accuracy (table 1)",
            _BASELINE,
            _REGIONS,
            tuple(f"{kind}/global_accuracy" for kind in KINDS),
        ),
        Claim(
            "Masks learned on the data set beat those learned on other data (table 3)",
            _REGIONS,
            Setting("region_masks", "rgb+flow", "other_masks"),
            _ALL,
        ),
        Claim(
            "True masks are an upper bound (table 3)", Setting("region_masks", "rgb+flow", "true_masks"), _REGIONS, _ALL
        ),
        Claim(
            "An actor carries a single action more often with regions (section 1)",
            _REGIONS,
            _BASELINE,
            ("consistency/single",),
        ),
        Claim(
            "Early fusion beats late fusion (section 3.2)",
            _BASELINE,
            Setting("deeplab", "rgb+flow", "late_fusion"),
            ("joint/mean_iou",),
        ),
    ),
}


def of_paper(paper: str) -> tuple[Claim, ...]:
    """The claims of ``paper``. Raises ``ValueError`` that names the papers there are."""
    if paper not in CLAIMS:
        raise ValueError(f"--paper={paper}{nearest(paper, list(CLAIMS))}; there are claims of {', '.join(CLAIMS)}")
    return CLAIMS[paper]


def add(paper: str, path: Path = PARAMS) -> list[str]:
    """List in ``path`` what the claims of ``paper`` need; returns the runs that were not there. Keeps its comments."""
    needed = dict.fromkeys(side for claim in of_paper(paper) for side in (claim.better, claim.worse))
    with edited(path) as content:
        return _add(needed, content)


def _add(needed: Iterable[Setting], content: Any) -> list[str]:
    runs, fronts, sources = content["runs"], content["features"]["fronts"], content["regions"]["sources"]
    added = []
    for side in needed:
        reads = runs[Setting("deeplab", side.inputs).name(SEEDS[0])]["reads"]
        source = "fcis-other" if side.variant == "other_masks" else "fcis-own"
        for seed in SEEDS:
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


def lines(paper: str, results: pd.DataFrame) -> list[str]:
    """Markdown: a line a claim, by how many points it holds (mean and range over seeds), and in how many seeds."""
    values = results.set_index(["method", "inputs", "variant", "seed", "metric"])["value"]
    found = [
        f"Claims of {paper}, each over the seeds that were run: points by which it holds.",
        "",
        "| claim | mean | over seeds | holds in |",
        "|---|---:|---:|---:|",
    ]
    for claim in of_paper(paper):
        ahead = list(_differences(claim, values))
        if not ahead:
            found.append(f"| {claim.text} | not run | | |")
            continue
        holds = sum(difference > 0 for difference in ahead)
        mean, span = sum(ahead) / len(ahead), f"{min(ahead):+.1f} to {max(ahead):+.1f}"
        found.append(f"| {claim.text} | {mean:+.1f} | {span} | {holds} of {len(ahead)} |")
    return found


def _differences(claim: Claim, values: Any) -> Iterator[float]:
    """One for each seed with which both sides were run; metrics that are not defined in either are left out."""

    def mean(seed: int, metrics: Sequence[str]) -> float:
        sides = [
            values.reindex([(side.method, side.inputs, side.variant, seed, metric) for metric in metrics]).to_numpy()
            for side in (claim.better, claim.worse)
        ]
        return float(pd.Series(sides[0] - sides[1]).mean())

    for seed in SEEDS:
        difference = mean(seed, claim.metrics) - (mean(seed, claim.than) if claim.than else 0.0)
        if not pd.isna(difference):
            yield difference


def main(
    what: Annotated[str, typer.Argument(help="add or show")],
    paper: Annotated[str, typer.Option(help="dang2018")],
) -> None:
    """List the runs of a paper's claims, or show how they came out."""
    if what == "add":
        added = add(paper)
        print(f"claims: {len(added)} runs added to {PARAMS}" + "".join(f"\n  {name}" for name in added))
    elif what == "show":
        if not RESULTS.exists():
            raise ValueError(f"{RESULTS} not found: run `make claims PAPER={paper}`")
        print("\n".join(lines(paper, pd.read_csv(RESULTS))))
    else:
        raise ValueError(f"`{what}`: write add or show")


if __name__ == "__main__":
    cli.run(main)
