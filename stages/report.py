"""Stage `report`: one table of methods, and one sheet of pictures.

Reads data/index, data/frames, data/evaluate and the published figures. Writes data/report: results.csv (a figure a
row), ledger.csv (every published figure and what was computed here), report.md, sheet.png.
Runs are those of params.yaml; a run without scores is `not run` in the table.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core import cli, dataset, maps, metrics, pictures, published, runs, tables
from stages.core.labels import A2D
from stages.core.params import Section, load, read

SMOKE_TEST = 20
"""A test set of fewer clips is marked: its figures show that the pipeline runs, not how good a method is."""
KINDS = ("actor", "action", "joint")
FIGURES = {"global_accuracy": "glo", "class_accuracy": "ave", "mean_iou": "mIoU"}


class Parameters(Section):
    """Section ``report`` of params.yaml."""

    rows: int


@dataclass(frozen=True)
class Result:
    """One run's scores: metrics.json, and the confusion matrix (80, 80) of each test clip."""

    run: runs.Run
    metrics: dict[str, Any]
    clips: dict[str, np.ndarray]


@dataclass(frozen=True)
class Oracle:
    """Scores of the true mask and actor with that actor's most frequent action; ``frequent`` (8,) are those ids."""

    scores: dict[str, metrics.Scores]
    coverage: str
    frequent: np.ndarray


def run(
    parameters: Parameters,
    bootstrap: metrics.Parameters,
    dataset_name: str,
    config: str,
    *,
    data: Path = Path("data"),
    output: Path = Path("data/report"),
) -> str:
    """Write the report on runs of ``config`` (small or paper); returns its Markdown."""
    chosen = runs.all_runs()
    results = {name: _read(run_, data / "evaluate" / name) for name, run_ in chosen.items() if _has(data, name)}
    missing = [name for name in chosen if name not in results]
    output.mkdir(parents=True, exist_ok=True)
    rows = [row for result in results.values() for row in _result_rows(dataset_name, result)]
    oracle = _oracle(results)
    if oracle is not None:
        rows += _oracle_rows(dataset_name, oracle)
    columns = ["dataset", "method", "inputs", "variant", "seed", "metric", "value", "coverage"]
    computed = pd.DataFrame(rows, columns=columns)
    computed.to_csv(output / "results.csv", index=False, float_format="%.4f")
    ledger = published.ledger(published.load(), computed, dataset=dataset_name, config=config)
    ledger.to_csv(output / "ledger.csv", index=False, float_format="%.4f")
    text = "\n".join(
        [
            *_heading(dataset_name, results),
            *_table(results, missing, oracle),
            "",
            *_comparisons(results, oracle, bootstrap),
            "",
            *published.markdown(ledger),
            "",
            "![Frame, ground truth, and each run, in A2D's colours](sheet.png)",
            "",
        ]
    )
    (output / "report.md").write_text(text)
    samples = dataset.load(data / "index", data / "frames", split="test")
    _sheet(samples, list(results), data / "evaluate", rows=parameters.rows, target=output / "sheet.png")
    print(text)
    return text


def _has(data: Path, name: str) -> bool:
    return (data / "evaluate" / name / "metrics.json").exists()


def _read(run_: runs.Run, folder: Path) -> Result:
    table = tables.read_parquet(folder / "confusion.parquet", tables.CONFUSION).to_pandas()
    clips = {}
    for video, cells in table[table["kind"] == "joint"].groupby("video"):
        matrix = np.zeros((metrics.JOINT_IDS, metrics.JOINT_IDS), np.int64)
        matrix[cells["truth"], cells["predicted"]] = cells["pixels"]
        clips[str(video)] = matrix
    return Result(run=run_, metrics=json.loads((folder / "metrics.json").read_text()), clips=clips)


def _coverage(result: Result) -> str:
    coverage = result.metrics["coverage"]
    return f"{coverage['scored']}/{coverage['of']}"


def _result_rows(dataset_name: str, result: Result) -> list[tuple[Any, ...]]:
    found = []
    run_ = result.run
    for kind in (*KINDS, "actor_head", "action_head"):
        for name, value in result.metrics[kind].items():
            identity = (dataset_name, run_.method, run_.inputs, run_.variant, run_.seed)
            found.append((*identity, f"{kind}/{name}", value, _coverage(result)))
    return found


def _oracle(results: dict[str, Result]) -> Oracle | None:
    """Scores of the true mask and actor with each actor's most frequent action, on the frames scored best covered."""
    if not results:
        return None
    widest = max(results.values(), key=lambda result: result.metrics["coverage"]["scored"])
    joint = sum(widest.clips.values(), np.zeros((metrics.JOINT_IDS, metrics.JOINT_IDS), np.int64))
    frequent = metrics.most_frequent_action(joint)
    return Oracle(metrics.all_scores(metrics.oracle(joint, frequent), A2D), _coverage(widest), frequent)


def _oracle_rows(dataset_name: str, oracle: Oracle) -> list[tuple[Any, ...]]:
    return [
        (dataset_name, "oracle", "truth", "most-frequent-action", 0, f"{kind}/{name}", value, oracle.coverage)
        for kind in KINDS
        for name, value in oracle.scores[kind].summary().items()
    ]


def _heading(dataset_name: str, results: dict[str, Result]) -> list[str]:
    lines = [f"# Actor-action segmentation on {dataset_name}", ""]
    if results:
        some = next(iter(results.values()))
        clips, classes = len(some.clips), {kind: some.metrics[kind]["classes"] for kind in KINDS}
        lines.append(
            f"{clips} test clips, {_coverage(some)} annotated frames scored; means run over the classes with truth: "
            f"{classes['actor']} of {len(A2D.actors)} actors, {classes['action']} of {len(A2D.actions)} actions, "
            f"{classes['joint']} of {len(A2D.valid_ids)} pairs, background in. Percent; the interval is 95 % over "
            "clips (bootstrap). Actor and action are marginals of the joint map."
        )
        if clips < SMOKE_TEST:
            lines += ["", f"**Smoke test**: {clips} test clips are too few to compare methods by."]
    return [*lines, ""]


def _table(results: dict[str, Result], missing: list[str], oracle: Oracle | None) -> list[str]:
    titles = [f"{kind} {short}" for kind in KINDS for short in FIGURES.values()]
    lines = ["| run | " + " | ".join(titles) + " | joint mIoU, 95 % | frames |", "|---|" + "---:|" * (len(titles) + 2)]
    for name, result in results.items():
        values = [f"{result.metrics[kind][figure]:.1f}" for kind in KINDS for figure in FIGURES]
        joint = result.metrics["joint"]
        interval = f"{joint['mean_iou_low']:.1f} to {joint['mean_iou_high']:.1f}"
        lines.append(f"| {name} | " + " | ".join(values) + f" | {interval} | {_coverage(result)} |")
    if oracle is not None:
        values = [f"{value:.1f}" for kind in KINDS for value in oracle.scores[kind].summary().values()]
        lines.append(
            "| oracle: true mask and actor, its most frequent action | "
            + " | ".join(values)
            + f" | | {oracle.coverage} |"
        )
    lines += [f"| {name} | not run |" + " |" * (len(titles) + 1) for name in missing]
    return lines


def _comparisons(results: dict[str, Result], oracle: Oracle | None, bootstrap: metrics.Parameters) -> list[str]:
    """Flow against no flow, and each run against the oracle: differences with an interval over the same clips."""
    lines = ["| comparison | measure | difference | 95 % over clips |", "|---|---|---:|---:|"]
    for name, result in results.items():
        if result.run.inputs == "rgb+flow":
            other = results.get(name.replace("-rgb+flow-", "-rgb-"))
            for kind in KINDS if other is not None else ():
                assert other is not None
                lines.append(_compare(f"{name} against {other.run.name}", kind, result.clips, other.clips, bootstrap))
    if oracle is not None:
        for name, result in results.items():
            always = {video: metrics.oracle(matrix, oracle.frequent) for video, matrix in result.clips.items()}
            lines.append(_compare(f"{name} against the oracle", "joint", result.clips, always, bootstrap))
    return lines


def _compare(
    title: str,
    kind: str,
    ours: dict[str, np.ndarray],
    others: dict[str, np.ndarray],
    bootstrap: metrics.Parameters,
) -> str:
    videos = sorted(ours.keys() & others.keys())
    first, second = (np.stack([clips[video] for video in videos]) for clips in (ours, others))
    measure = metrics.mean_iou(kind, A2D)
    low, high = metrics.bootstrap(first, measure, resamples=bootstrap.resamples, seed=bootstrap.seed, other=second)
    difference = measure(first.sum(0)) - measure(second.sum(0))
    return f"| {title} | {kind} mIoU | {difference:+.1f} | {low:+.1f} to {high:+.1f} |"


def _sheet(samples: dataset.Dataset, names: list[str], folder: Path, *, rows: int, target: Path) -> None:
    """One picture: a row a test clip (spread over the set), columns frame, truth and every run."""
    videos = samples.videos
    chosen = [videos[round(i)] for i in np.linspace(0, len(videos) - 1, min(rows, len(videos)))]
    grid = []
    for video in dict.fromkeys(chosen):
        annotated = samples.annotated(video)
        frame = annotated[len(annotated) // 2]
        images = [samples.window(video, [frame]).frames[0], A2D.palette[samples.labels(video, frame)]]
        for name in names:
            predicted = maps.PackedMaps(folder / name / "predictions").maps(video, frame)
            images.append(np.zeros_like(images[0]) if predicted is None else A2D.palette[predicted["joint"]])
        grid.append(images)
    pictures.write_sheet(target, grid, titles=["frame", "ground truth", *names])


def main() -> None:
    """Compare the runs of params.yaml."""
    run(
        load("report", Parameters),
        load("evaluate", metrics.Parameters),
        load("index", dataset.Parameters).dataset,
        read()["train"]["common"]["config"],
    )


if __name__ == "__main__":
    cli.run(main)
