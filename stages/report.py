"""Stage `report`: one table of methods, and one sheet of pictures.

Reads data/index, data/frames, data/evaluate, data/evaluate_flow and the published figures. Writes data/report:
results.csv (a figure a row), ledger.csv (every published figure and what was computed here), report.md, sheet.png.
Runs are those of params.yaml; a run without scores is `not run` in the table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core import cli, dataset, pictures, published, results, runs, sections, windows
from stages.core.labels import LabelSpace
from stages.core.params import Section, load, read
from stages.core.results import KINDS, Oracle, Result
from stages.core.runs import FULL
from stages.core.scores import action_masks, confusion, maps, resampling, segmentation
from stages.core.scores.confusion import Confusions

SMOKE_TEST = 20
"""A test set of fewer clips is marked: its figures show that the pipeline runs, not how good a method is."""
MARGINALS = "Actor and action are marginals of the joint map."
FIGURES = {"global_accuracy": "glo", "class_accuracy": "ave", "mean_iou": "mIoU"}


class Parameters(Section):
    """Section ``report`` of params.yaml."""

    rows: int


def run(
    parameters: Parameters,
    bootstrap: resampling.Parameters,
    dataset_name: str,
    config: str,
    *,
    data: Path = Path("data"),
    output: Path = Path("data/report"),
) -> str:
    """Write the report on runs of ``config`` (small or paper); returns its Markdown."""
    chosen = runs.all_runs()
    space = dataset.read_description(data / "index").label_space
    found = {
        name: results.read(run_, data / "evaluate" / name, space)
        for name, run_ in chosen.items()
        if results.has(data, name)
    }
    missing = [name for name in chosen if name not in found]
    output.mkdir(parents=True, exist_ok=True)
    rows = [row for result in found.values() for row in results.rows(dataset_name, result)]
    oracle = results.oracle(found.values())
    if oracle is not None:
        rows += results.oracle_rows(dataset_name, oracle)
    computed = pd.DataFrame(rows, columns=list(results.COLUMNS))
    computed.to_csv(output / "results.csv", index=False, float_format="%.4f")
    ledger = published.ledger(published.load(), computed, dataset=dataset_name, config=config, labels=space.key)
    ledger.to_csv(output / "ledger.csv", index=False, float_format="%.4f")
    text = "\n".join(
        [
            *_heading(dataset_name, found, space),
            *_table(found, missing, oracle),
            "",
            *_comparisons(found, oracle, bootstrap),
            "",
            *sections.by_size(found.values()),
            "",
            *sections.consistency(found.values()),
            "",
            *sections.detection(found.values()),
            "",
            *sections.zero_shot(found.values(), bootstrap),
            "",
            *sections.zero_shot_by_boxes(found.values(), data / "index", bootstrap),
            "",
            *sections.regions(data / "regions"),
            "",
            *sections.flow(data / "evaluate_flow"),
            "",
            *published.markdown(ledger),
            "",
            "![Frame, ground truth, and each run, in the colours of the labels](sheet.png)",
            "",
        ]
    )
    (output / "report.md").write_text(text)
    samples = dataset.load(data / "index", data / "frames", split="test")
    _sheet(samples, list(found), data / "evaluate", rows=parameters.rows, target=output / "sheet.png")
    print(text)
    return text


def _heading(dataset_name: str, found: dict[str, Result], space: LabelSpace) -> list[str]:
    lines = [f"# Actor-action segmentation on {dataset_name}", ""]
    if found:
        some = next(iter(found.values()))
        clips, classes = some.metrics["coverage"]["clips"], {kind: some.metrics[kind]["classes"] for kind in KINDS}
        actions = "A pixel has any number of actions." if space.multi_label else MARGINALS
        lines.append(
            f"{clips} test clips, {results.coverage(some)} annotated frames scored; means run over the classes with "
            f"truth: {classes['actor']} of {len(space.actors)} actors, {classes['action']} of {len(space.actions)} "
            f"actions, {classes['joint']} of {len(space.valid_ids)} pairs, background in. Percent; the interval is "
            f"95 % over clips (bootstrap). {actions}"
        )
        if clips < SMOKE_TEST:
            lines += ["", f"**Smoke test**: {clips} test clips are too few to compare methods by."]
    return [*lines, ""]


def _table(found: dict[str, Result], missing: list[str], oracle: Oracle | None) -> list[str]:
    titles = [f"{kind} {short}" for kind in KINDS for short in FIGURES.values()]
    lines = ["| run | " + " | ".join(titles) + " | joint mIoU, 95 % | frames |", "|---|" + "---:|" * (len(titles) + 2)]
    for name, result in found.items():
        values = [f"{result.metrics[kind][figure]:.1f}" for kind in KINDS for figure in FIGURES]
        joint = result.metrics["joint"]
        interval = f"{joint['mean_iou_low']:.1f} to {joint['mean_iou_high']:.1f}"
        lines.append(f"| {name} | " + " | ".join(values) + f" | {interval} | {results.coverage(result)} |")
    if oracle is not None:
        values = [f"{value:.1f}" for kind in KINDS for value in oracle.scores[kind].summary().values()]
        lines.append(
            "| oracle: true mask and actor, its most frequent action | "
            + " | ".join(values)
            + f" | | {oracle.coverage} |"
        )
    lines += [f"| {name} | not run |" + " |" * (len(titles) + 1) for name in missing]
    return lines


def _comparisons(found: dict[str, Result], oracle: Oracle | None, bootstrap: resampling.Parameters) -> list[str]:
    """Flow against no flow, variants against the plain one, each run against the oracle: differences with an interval
    over the same clips."""
    known = {name: result.confusions for name, result in found.items() if result.confusions is not None}
    if not known:
        return []
    lines = ["| comparison | measure | difference | 95 % over clips | p |", "|---|---|---:|---:|---:|"]
    for name, ours in known.items():
        run_ = found[name].run
        variant = f"-{run_.variant}-"
        for counterpart in dict.fromkeys((name.replace("-rgb+flow-", "-rgb-"), name.replace(variant, f"-{FULL}-"))):
            if counterpart != name and counterpart in known and run_.held_out is None:
                title = f"{name} against {counterpart}"
                lines += _compare(title, KINDS, ours, known[counterpart], bootstrap)
    if oracle is not None:
        for name, ours in known.items():
            always = np.stack([confusion.oracle(matrix, oracle.frequent) for matrix in ours.matrices["joint"]])
            of_oracle = Confusions(ours.clips, {"joint": always}, ours.label_space)
            lines += _compare(f"{name} against the oracle", ("joint",), ours, of_oracle, bootstrap)
    return lines


def _compare(
    title: str, kinds: Sequence[str], ours: Confusions, others: Confusions, bootstrap: resampling.Parameters
) -> list[str]:
    differences = resampling.paired(*results.on_same_clips(ours, others), bootstrap)
    lines = []
    for kind in kinds:
        one = differences[f"{kind}/mean_iou"]
        interval = f"{one.low:+.1f} to {one.high:+.1f}"
        lines.append(f"| {title} | {kind} mIoU | {one.difference:+.1f} | {interval} | {one.p:.3f} |")
    return lines


def _sheet(samples: dataset.Dataset, names: list[str], folder: Path, *, rows: int, target: Path) -> None:
    """One picture: a row a test clip (spread over the set), columns frame, truth and every run."""
    videos = samples.videos
    chosen = [videos[round(i)] for i in np.linspace(0, len(videos) - 1, min(rows, len(videos)))]
    grid = []
    for video in dict.fromkeys(chosen):
        annotated = samples.annotated(video)
        frame = annotated[len(annotated) // 2]
        palette = samples.label_space.palette
        images = [windows.read(samples, video, [frame]).frames[0], palette[samples.labels(video, frame)]]
        for name in names:
            predicted = _predicted(samples.label_space, folder / name / "predictions", video, frame)
            images.append(np.zeros_like(images[0]) if predicted is None else palette[predicted])
        grid.append(images)
    pictures.write_sheet(target, grid, titles=["frame", "ground truth", *names])


def _predicted(space: LabelSpace, folder: Path, video: str, frame: int) -> np.ndarray | None:
    """The label map as the palette colours it: actors in multi-label data; None where the frame was not predicted."""
    if space.multi_label:
        sets = action_masks.Predictions(folder).sets(video, frame)
        return None if sets is None else sets.actors
    found = maps.PackedMaps(folder).maps(video, frame)
    return None if found is None else found["joint"]


def main() -> None:
    """Compare the runs of params.yaml."""
    run(
        load("report", Parameters),
        load("evaluate", segmentation.Parameters),
        dataset.name(),
        read()["train"]["common"]["config"],
    )


if __name__ == "__main__":
    cli.run(main)
