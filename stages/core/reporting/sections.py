"""Sections of the report beside its main table, as lines of Markdown; none where there is nothing to tell."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.reporting import results
from stages.core.reporting.results import Result
from stages.core.scores import flow as flow_scores
from stages.core.scores import resampling, sizes
from stages.core.scores import zero_shot as scores_of_zero_shot


def by_size(found: Iterable[Result]) -> list[str]:
    """Joint mean IoU by the actor's size, thirds of the test set's actors."""
    sized = {result.run.name: result for result in found if results.known_sizes(result)}
    if not sized:
        return []
    low, high = next(iter(sized.values())).metrics["by_size"]["thirds"]
    lines = [
        f"Joint mean IoU by the actor's size: small up to {low:.0f} pixels, large above {high:.0f} (thirds).",
        "",
        "| run | " + " | ".join(sizes.SIZES) + " |",
        "|---|" + "---:|" * len(sizes.SIZES),
    ]
    for name, result in sized.items():
        values = [f"{result.metrics['by_size'][size]['joint']['mean_iou']:.1f}" for size in sizes.SIZES]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return lines


def consistency(found: Iterable[Result]) -> list[str]:
    """Do the pixels of an actor agree on one action? What region masks are for."""
    told = {result.run.name: result.metrics["consistency"] for result in found if "consistency" in result.metrics}
    known = {name: scores for name, scores in told.items() if scores["single"] is not None}
    if not known:
        return []
    lines = [
        "Consistency within an actor, percent of the true actors: found (some pixel has an action), a single action in "
        "all such pixels (of those found), and the mean share of the most frequent action.",
        "",
        "| run | found | single action | 95 % over clips | share of the most frequent |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, scores in known.items():
        single = f"{scores['single']:.1f} | {scores['single_low']:.1f} to {scores['single_high']:.1f}"
        lines.append(f"| {name} | {scores['found']:.1f} | {single} | {scores['purity']:.1f} |")
    return lines


def detection(found: Iterable[Result]) -> list[str]:
    """How well actors and what they do are found by boxes: a line a run of a method that finds some."""
    scored = {result.run.name: result.metrics[results.DETECTION] for result in found if result.detections is not None}
    if not scored:
        return []
    kinds = [name.removesuffix("_map") for name in results.MEANS]
    classes = next(iter(scored.values()))["classes"]
    lines = [
        "Detection, mean average precision of boxes (VOC 2007, IoU 0.5) over the classes with truth: "
        + ", ".join(f"{classes[kind]} {kind}s" for kind in kinds)
        + " (`none` is no action here).",
        "",
        "| run | " + " | ".join(f"{kind} mAP | 95 % over clips" for kind in kinds) + " |",
        "|---|" + "---:|" * (2 * len(kinds)),
    ]
    for name, scores in scored.items():
        lines.append(f"| {name} | " + " | ".join(with_interval(scores, mean) for mean in results.MEANS) + " |")
    return lines


def zero_shot(found: Iterable[Result], bootstrap: resampling.Parameters) -> list[str]:
    """Actors whose actions nobody taught, in label maps: a line a method, over the runs that held out an actor each."""
    lines = [
        _zero_shot_line(name, scores_of_zero_shot.summary(evidence, bootstrap), ("class_accuracy", "mean_iou"))
        for name, evidence in results.zero_shot(found).items()
    ]
    if not lines:
        return []
    return [
        "Zero-shot: each pair on the run that never saw its actor's actions.",
        "",
        "| method, inputs, seed | pair accuracy | 95 % over clips | mIoU | 95 % over clips | pairs | "
        "accuracy by held-out actor |",
        "|---|---:|---:|---:|---:|---:|---|",
        *lines,
    ]


def zero_shot_by_boxes(found: Iterable[Result], index: Path, bootstrap: resampling.Parameters) -> list[str]:
    """The same in detections, on the data set of data/index at ``index``."""
    lines = [
        _zero_shot_line(name, scores_of_zero_shot.summary(evidence, bootstrap), ("pair_map",))
        for name, evidence in results.zero_shot_by_boxes(found, index).items()
    ]
    if not lines:
        return []
    return [
        "Zero-shot by boxes: each pair's average precision on the run that never saw its actor's actions. A joint "
        "space of actors and actions (`joint_space`) has nothing to say of them.",
        "",
        "| method, inputs, seed | pair mAP | 95 % over clips | pairs | mAP by held-out actor |",
        "|---|---:|---:|---:|---|",
        *lines,
    ]


def _zero_shot_line(name: str, scores: dict[str, Any], figures: Sequence[str]) -> str:
    by_actor = [f"{actor} {number(one[figures[0]])}" for actor, one in scores["splits"].items()]
    cells = [*(with_interval(scores, figure) for figure in figures), f"{scores['pairs']} of {scores['of_pairs']}"]
    return f"| {name} | " + " | ".join(cells) + f" | {', '.join(by_actor)} |"


def with_interval(scores: dict[str, Any], figure: str) -> str:
    """Two cells: a figure of ``scores``, and its interval."""
    low, high = (number(scores[f"{figure}_{bound}"]) for bound in ("low", "high"))
    return f"{number(scores[figure])} | {low} to {high}"


def number(value: float | None) -> str:
    """A cell: nothing for what is not defined."""
    return "" if value is None or pd.isna(value) else f"{value:.1f}"


def regions(folder: Path) -> list[str]:
    """How good region masks are: a line a source."""
    measured = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))}
    measured = {name: scores for name, scores in measured.items() if "ap" in scores}
    if not measured:
        return []
    lines = [
        "Region masks on the annotated test frames (COCO's scores of masks, percent): average precision and recall of "
        "all regions, the share of actors that one covers at least half, also by the actor's size, and the AP of "
        "regions that name the actor.",
        "",
        "| source | regions a frame | AP | AP50 | recall | covered | small | medium | large | AP named | AP50 named |",
        "|---|" + "---:|" * 10,
    ]
    for name, scores in measured.items():
        values = [scores["regions_per_frame"], *(scores[key] for key in ("ap", "ap50", "recall", "covered"))]
        values += [scores["by_size"][size]["covered"] for size in sizes.SIZES]
        values += [scores["actor_ap"], scores["actor_ap50"]]
        lines.append(f"| {name} | " + " | ".join("" if v is None else f"{v:.1f}" for v in values) + " |")
    return lines


def flow(folder: Path) -> list[str]:
    """Backends of optical flow by how wrong they are on pairs with exact flow: a line a backend and kind of pairs."""
    if not (folder / "scores.csv").exists():
        return []
    scores = pd.read_csv(folder / "scores.csv")
    speeds = ("all", *flow_scores.SPEEDS)
    titles = " | ".join(speed.replace("_", " ") for speed in speeds)
    lines = [
        "Optical flow on pairs with exact flow that no training saw: endpoint error in pixels, by the true speed.",
        "",
        f"| pairs | backend | {titles} | Fl-all, % |",
        "|---|---|" + "---:|" * (len(speeds) + 1),
    ]
    for (pairs, backend), rows in scores.groupby(["pairs", "backend"], sort=False):
        found = rows.set_index(["speed", "metric"])["value"]
        errors = " | ".join(f"{found[speed, 'endpoint_error']:.2f}" for speed in speeds)
        lines.append(f"| {pairs} | {backend} | {errors} | {found['all', 'fl_all']:.1f} |")
    return [*lines, "", "![Frame, true flow, and that of each backend](../evaluate_flow/sheet.png)"]
