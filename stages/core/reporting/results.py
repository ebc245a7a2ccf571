"""What the evaluate stage found, run by run, and the oracle that a method must beat."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models.methods import FIXED_VOCABULARY, ON_SENTENCES, ON_VIDEOS
from stages.core import runs, schemas
from stages.core.datasets.labels import LabelSpace
from stages.core.scores import boxes, confusion, sentences, sizes
from stages.core.scores.confusion import Confusions, class_rows
from stages.core.scores.multi_label import FREQUENT
from stages.core.scores.segmentation import NON_BOUNDARY
from stages.core.scores.sentences import SentenceEvidence
from stages.core.scores.zero_shot import BoxEvidence, MapEvidence, of_confusions, of_detections

T = TypeVar("T")

KINDS = ("actor", "action", "joint")
DETECTION = "detection"
"""Section of metrics.json that methods have which find boxes."""
PIXELS, SENTENCES, VIDEOS = "joint", "sentences", "classification"
"""Sections of metrics.json with the main scores of methods that label pixels, that segment what a sentence means, and
that say what a video shows: a run has one of them."""
ANSWERS = f"predictions/{sentences.ANSWERS}"
"""In the folder of a run: what it answers to sentences."""
COUNTS = ("samples", "pairs", "videos")
"""Beside the scores: numbers of what was scored."""
MEANS = ("pair_map", "actor_map", "action_map")
"""Of that section, mean average precisions."""
COLUMNS = ("dataset", "method", "inputs", "variant", "seed", "metric", "value", "coverage")
"""Of results.csv: a figure a row."""


@dataclass(frozen=True)
class Result:
    """One run's scores: metrics.json, the confusion matrix of each test clip (None in multi-label data, and of methods
    that label no pixels), where its detections lie (None where there are none that can be scored), and where its
    answers to sentences do (None of other methods)."""

    run: runs.Run
    metrics: dict[str, Any]
    confusions: Confusions | None
    detections: Path | None = None
    answers: Path | None = None


@dataclass(frozen=True)
class Oracle:
    """The true mask and actor with that actor's most frequent action; ``frequent`` (actors,) are those ids."""

    scores: dict[str, confusion.Scores]
    coverage: str
    frequent: np.ndarray


def section(run_: runs.Run) -> str:
    """Where in metrics.json the main scores of ``run_`` are: PIXELS, SENTENCES or VIDEOS."""
    if run_.method in ON_VIDEOS:
        return VIDEOS
    return SENTENCES if run_.method in ON_SENTENCES and run_.variant != FIXED_VOCABULARY else PIXELS


def read_all(chosen: Mapping[str, runs.Run], folder: Path, space: LabelSpace) -> dict[str, Result]:
    """Name -> scores of those ``chosen`` runs that have some in ``folder``: data/evaluate, or data/transfer."""
    return {
        name: read(run_, folder / name, space)
        for name, run_ in chosen.items()
        if (folder / name / "metrics.json").exists()
    }


def read(run_: runs.Run, folder: Path, space: LabelSpace) -> Result:
    """The scores of ``run_`` in its folder of data/evaluate."""
    metrics = json.loads((folder / "metrics.json").read_text())
    labelled = section(run_) == PIXELS and not space.multi_label
    return Result(
        run=run_,
        metrics=metrics,
        confusions=read_confusions(folder, space) if labelled else None,
        detections=folder / "detections.parquet" if DETECTION in metrics else None,
        answers=folder / ANSWERS if SENTENCES in metrics else None,
    )


def of_section(found: Iterable[Result], name: str) -> dict[str, Result]:
    """Run -> scores of the ``found`` runs whose main scores are in section ``name``."""
    return {result.run.name: result for result in found if section(result.run) == name}


def read_confusions(folder: Path, space: LabelSpace) -> Confusions:
    """The confusion matrix of each test clip of a run in its folder of data/evaluate."""
    table = schemas.read_parquet(folder / "confusion.parquet", schemas.CONFUSION).to_pandas()
    clips = {}
    for video, cells in table[table["kind"] == "joint"].groupby("video"):
        matrix = np.zeros((space.ids, space.ids), np.int64)
        matrix[cells["truth"], cells["predicted"]] = cells["pixels"]
        clips[str(video)] = matrix
    return Confusions(list(clips), {"joint": np.stack(list(clips.values()))}, space)


def on_same_clips(first: Confusions, second: Confusions) -> tuple[Confusions, Confusions]:
    """Both on the clips that both have."""
    clips = sorted(set(first.clips) & set(second.clips))
    return first.only(clips), second.only(clips)


def answered_by_both(first: Path, second: Path, index: Path) -> tuple[SentenceEvidence, SentenceEvidence]:
    """Evidence of two runs' answers to sentences, of the samples that both answered; ``index`` is data/index."""
    both = sentences.load(index / sentences.TRUTH, first, against=second, count_missing=True)
    assert both.against is not None
    return both.evidence, both.against


def coverage(result: Result) -> str:
    """Frames scored of those promised; of methods on sentences and on videos, sentences about frames, and videos."""
    counts = result.metrics["coverage"]
    return f"{counts['scored']}/{counts['of']}"


def rows(dataset_name: str, result: Result) -> list[tuple[Any, ...]]:
    """Rows of results.csv: every figure, again by the actor's size as ``<size>/<kind>/<figure>``, and without
    boundaries or over the most frequent classes as variants of their own (table 2 of Dang et al., and of Rana and
    Rawat); each pair's accuracy (Dang et al., table 5); whether an actor has a single action. Methods on sentences have
    ``sentence/<figure>`` and ``emptiness/<kind of question>/<figure>``, those on videos ``classification/<figure>``.
    """
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
    if detection := result.metrics.get(DETECTION):
        for metric, value in _averages(detection):
            add(metric, value)
        for size in sizes.SIZES:
            for metric, value in _averages(detection["by_size"][size]):
                add(f"{size}/{metric}", value)
    for prefix, name in (("sentence", SENTENCES), (VIDEOS, VIDEOS)):
        if scores := result.metrics.get(name):
            for metric, value in _scores(scores):
                add(f"{prefix}/{metric}", value)
            for size in sizes.SIZES:
                for metric, value in _scores(scores["by_size"][size]):
                    add(f"{size}/{prefix}/{metric}", value)
    for kind, scores in result.metrics.get("emptiness", {}).items():
        for metric, value in _scores(scores):
            add(f"emptiness/{kind}/{metric}", value)
    for kind, _, name, accuracy, _ in class_rows(result.confusions) if result.confusions else ():
        if kind == "joint":
            add(f"accuracy/{name}", accuracy)
    return found


def _figures(scores: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    for kind in (*KINDS, "actor_head", "action_head"):
        for name, value in scores.get(kind, {}).items():
            yield f"{kind}/{name}", value


def _averages(scores: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Mean average precisions, each with its interval."""
    for name in MEANS:
        for bound in ("", "_low", "_high"):
            yield f"{DETECTION}/{name}{bound}", scores[f"{name}{bound}"]


def _scores(scores: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Figures with their intervals; no counts, and no sections below."""
    for name, value in scores.items():
        if name not in COUNTS and not isinstance(value, dict):
            yield name, value


def zero_shot(found: Iterable[Result]) -> dict[str, MapEvidence]:
    """``<method>, <inputs>, <seed>`` -> evidence of its runs without the actions of one actor each."""
    models = _by_held_out((result, result.confusions) for result in found)
    return {name: of_confusions(of_actor) for name, of_actor in models.items()}


def zero_shot_by_boxes(found: Iterable[Result], index: Path) -> dict[str, BoxEvidence]:
    """The same of the detections of runs that have some; ``index`` is data/index."""
    models = _by_held_out((result, result.detections) for result in found)
    if not models:
        return {}
    truth = boxes.read_truth(index)
    return {name: of_detections(truth, of_actor, count_missing=True) for name, of_actor in models.items()}


def _by_held_out(found: Iterable[tuple[Result, T | None]]) -> dict[str, dict[str, T]]:
    """Of runs that have something to show: who they are without the held-out actor -> that actor -> it."""
    models: dict[str, dict[str, T]] = {}
    for result, shown in found:
        run_ = result.run
        own, held_out = runs.split_variant(run_.method, run_.variant)
        if held_out is not None and shown is not None:
            method = run_.method if own == runs.FULL else f"{run_.method} {own}"
            models.setdefault(f"{method}, {run_.inputs}, {run_.seed}", {})[held_out] = shown
    return models


def known_sizes(result: Result) -> list[str]:
    """The sizes of actors that were scored apart."""
    return [size for size in sizes.SIZES if size in result.metrics.get("by_size", {})]


def oracle(results: Iterable[Result]) -> Oracle | None:
    """Scores of the true mask and actor with each actor's most frequent action, on the frames scored best covered.

    None without runs that label pixels, and in multi-label data.
    """
    labelled = [result for result in results if result.confusions is not None]
    widest = max(labelled, default=None, key=lambda result: result.metrics["coverage"]["scored"])
    if widest is None:
        return None
    assert widest.confusions is not None
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
