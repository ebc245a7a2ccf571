"""What the evaluate stage found, run by run, and the oracle that a method must beat."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import runs, tables
from stages.core.labels import LabelSpace
from stages.core.scores import confusion, sizes
from stages.core.scores.confusion import Confusions, class_rows
from stages.core.scores.multi_label import FREQUENT
from stages.core.scores.segmentation import NON_BOUNDARY
from stages.core.scores.zero_shot import MapEvidence, of_confusions

KINDS = ("actor", "action", "joint")
COLUMNS = ("dataset", "method", "inputs", "variant", "seed", "metric", "value", "coverage")
"""Of results.csv: a figure a row."""


@dataclass(frozen=True)
class Result:
    """One run's scores: metrics.json, and the confusion matrix of each test clip (None in multi-label data)."""

    run: runs.Run
    metrics: dict[str, Any]
    confusions: Confusions | None


@dataclass(frozen=True)
class Oracle:
    """The true mask and actor with that actor's most frequent action; ``frequent`` (actors,) are those ids."""

    scores: dict[str, confusion.Scores]
    coverage: str
    frequent: np.ndarray


def has(data: Path, name: str) -> bool:
    """Was the run called ``name`` evaluated?"""
    return (data / "evaluate" / name / "metrics.json").exists()


def read(run_: runs.Run, folder: Path, space: LabelSpace) -> Result:
    """The scores of ``run_`` in its folder of data/evaluate."""
    metrics = json.loads((folder / "metrics.json").read_text())
    if space.multi_label:
        return Result(run=run_, metrics=metrics, confusions=None)
    table = tables.read_parquet(folder / "confusion.parquet", tables.CONFUSION).to_pandas()
    clips = {}
    for video, cells in table[table["kind"] == "joint"].groupby("video"):
        matrix = np.zeros((space.ids, space.ids), np.int64)
        matrix[cells["truth"], cells["predicted"]] = cells["pixels"]
        clips[str(video)] = matrix
    confusions = Confusions(list(clips), {"joint": np.stack(list(clips.values()))}, space)
    return Result(run=run_, metrics=metrics, confusions=confusions)


def coverage(result: Result) -> str:
    """Frames scored of those promised."""
    counts = result.metrics["coverage"]
    return f"{counts['scored']}/{counts['of']}"


def rows(dataset_name: str, result: Result) -> list[tuple[Any, ...]]:
    """Rows of results.csv: every figure, again by the actor's size as ``<size>/<kind>/<figure>``, and without
    boundaries or over the most frequent classes as variants of their own (table 2 of Dang et al., and of Rana and
    Rawat); each pair's accuracy (Dang et al., table 5); whether an actor has a single action."""
    run_, found = result.run, []

    def add(metric: str, value: float | None, *, variant: str = run_.variant) -> None:
        identity = (dataset_name, run_.method, run_.inputs, variant, run_.seed)
        found.append((*identity, metric, value, coverage(result)))

    for metric, value in _figures(result.metrics):
        add(metric, value)
    for size in known_sizes(result):
        for metric, value in _figures(result.metrics["by_size"][size]):
            add(f"{size}/{metric}", value)
    for kind in KINDS:
        for name, value in result.metrics.get(f"{kind}_frequent", {}).items():
            add(f"{kind}/{name}", value, variant=f"{run_.variant}, {FREQUENT} most frequent classes")
    without = "non-boundary" if run_.variant == runs.FULL else f"{run_.variant}, non-boundary"
    for metric, value in _figures(result.metrics.get(NON_BOUNDARY, {})):
        add(metric, value, variant=without)
    for name, value in result.metrics.get("consistency", {}).items():
        add(f"consistency/{name}", value)
    for kind, _, name, accuracy, _ in class_rows(result.confusions) if result.confusions else ():
        if kind == "joint":
            add(f"accuracy/{name}", accuracy)
    return found


def _figures(scores: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    for kind in (*KINDS, "actor_head", "action_head"):
        for name, value in scores.get(kind, {}).items():
            yield f"{kind}/{name}", value


def zero_shot(found: Iterable[Result]) -> dict[str, MapEvidence]:
    """``<method>, <inputs>, <seed>`` -> evidence of its runs without the actions of one actor each."""
    models: dict[str, dict[str, Confusions]] = {}
    for result in found:
        run_ = result.run
        if run_.held_out is not None and result.confusions is not None:
            models.setdefault(f"{run_.method}, {run_.inputs}, {run_.seed}", {})[run_.held_out] = result.confusions
    return {name: of_confusions(of_actor) for name, of_actor in models.items()}


def known_sizes(result: Result) -> list[str]:
    """The sizes of actors that were scored apart."""
    return [size for size in sizes.SIZES if size in result.metrics.get("by_size", {})]


def oracle(results: Iterable[Result]) -> Oracle | None:
    """Scores of the true mask and actor with each actor's most frequent action, on the frames scored best covered.

    None without runs, and in multi-label data.
    """
    widest = max(results, default=None, key=lambda result: result.metrics["coverage"]["scored"])
    if widest is None or widest.confusions is None:
        return None
    joint = widest.confusions.matrices["joint"].sum(0)
    space = widest.confusions.label_space
    frequent = confusion.most_frequent_action(joint, space)
    return Oracle(confusion.all_scores(confusion.oracle(joint, frequent), space), coverage(widest), frequent)


def oracle_rows(dataset_name: str, found: Oracle) -> list[tuple[Any, ...]]:
    """The oracle's rows of results.csv."""
    return [
        (dataset_name, "oracle", "truth", "most-frequent-action", 0, f"{kind}/{name}", value, found.coverage)
        for kind in KINDS
        for name, value in found.scores[kind].summary().items()
    ]
