"""Stage `report`: tables of methods, and sheets of pictures.

Reads data/index, data/frames, data/evaluate, data/evaluate_flow, data/transfer where it is there, and the published
figures. Writes data/report: results.csv (a figure a row), ledger.csv (every published figure and what was computed
here), report.md, sheet.png, and sentences.png where sentences single out actors of one kind. Runs are those of
params.yaml; a run without scores is `not run` in its table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core import cli, runs
from stages.core.datasets import dataset
from stages.core.datasets.labels import LabelSpace
from stages.core.params import Section, load, read
from stages.core.reporting import ledger as ledgers
from stages.core.reporting import results, sections, sections_on_sentences, sheets
from stages.core.reporting.results import KINDS, PIXELS, SENTENCES, VIDEOS, Oracle, Result
from stages.core.runs import FULL
from stages.core.scores import confusion, resampling, segmentation
from stages.core.scores.confusion import Confusions

SMOKE_TEST = 20
"""A test set of fewer clips is marked: its figures show that the pipeline runs, not how good a method is."""
MINIATURE = "data/miniature"
"""What stands in for J-HMDB, where `transfer_data.folder` of params.yaml names no other folder."""
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
    miniature: bool = True,
    data: Path = Path("data"),
    output: Path = Path("data/report"),
) -> str:
    """Write the report on runs of ``config`` (small or paper); returns its Markdown.

    ``miniature``: what lies in data/transfer stands in for J-HMDB.
    """
    chosen = runs.all_runs()
    space = dataset.read_description(data / "index").label_space
    found = results.read_all(chosen, data / "evaluate", space)
    elsewhere = results.read_all(chosen, data / "transfer", space)
    labelled = results.of_section(found.values(), PIXELS)
    missing = {
        kind: [name for name, run_ in chosen.items() if name not in found and results.section(run_) == kind]
        for kind in (PIXELS, SENTENCES, VIDEOS)
    }
    output.mkdir(parents=True, exist_ok=True)
    rows = [row for result in found.values() for row in results.rows(dataset_name, result)]
    rows += [row for result in elsewhere.values() for row in results.rows(ledgers.ELSEWHERE, result)]
    oracle = results.oracle(found.values())
    if oracle is not None:
        rows += results.oracle_rows(dataset_name, oracle)
    computed = pd.DataFrame(rows, columns=list(results.COLUMNS))
    computed.to_csv(output / "results.csv", index=False, float_format="%.4f")
    ledger = ledgers.ledger(
        ledgers.load(), computed, dataset=dataset_name, config=config, labels=space.key, miniature=miniature
    )
    ledger.to_csv(output / "ledger.csv", index=False, float_format="%.4f")
    samples = dataset.load(data / "index", data / "frames", split="test")
    sheets.write_labels(samples, list(labelled), data / "evaluate", rows=parameters.rows, target=output / "sheet.png")
    parts = [
        _table(labelled, missing[PIXELS], oracle),
        _comparisons(labelled, oracle, bootstrap),
        sections.by_size(found.values()),
        sections.consistency(found.values()),
        sections.detection(found.values()),
        sections.zero_shot(found.values(), bootstrap),
        sections.zero_shot_by_boxes(found.values(), data / "index", bootstrap),
        sections_on_sentences.segmentation(found.values(), missing[SENTENCES]),
        sections_on_sentences.comparisons(found.values(), data / "index", bootstrap),
        sections_on_sentences.emptiness(found.values()),
        sections_on_sentences.elsewhere(elsewhere.values(), miniature=miniature),
        _sentences(samples, found, output / "sentences.png"),
        sections_on_sentences.videos(found.values(), missing[VIDEOS]),
        sections.regions(data / "regions"),
        sections.flow(data / "evaluate_flow"),
        ledgers.markdown(ledger),
        ["![Frame, ground truth, and each run, in the colours of the labels](sheet.png)"],
    ]
    text = "\n".join([*_heading(dataset_name, found, space), *(line for part in parts for line in (*part, ""))])
    (output / "report.md").write_text(text)
    print(text)
    return text


def _heading(dataset_name: str, found: dict[str, Result], space: LabelSpace) -> list[str]:
    lines = [f"# Actor-action segmentation on {dataset_name}", ""]
    labelled = results.of_section(found.values(), PIXELS)
    if labelled:
        some = next(iter(labelled.values()))
        clips, classes = some.metrics["coverage"]["clips"], {kind: some.metrics[kind]["classes"] for kind in KINDS}
        actions = "A pixel has any number of actions." if space.multi_label else MARGINALS
        lines.append(
            f"{clips} test clips, {results.coverage(some)} annotated frames scored; means run over the classes with "
            f"truth: {classes['actor']} of {len(space.actors)} actors, {classes['action']} of {len(space.actions)} "
            f"actions, {classes['joint']} of {len(space.valid_ids)} pairs, background in. Percent; the interval is "
            f"95 % over clips (bootstrap). {actions}"
        )
    most = max((result.metrics["coverage"]["clips"] for result in found.values()), default=SMOKE_TEST)
    if most < SMOKE_TEST:
        lines += ["", f"**Smoke test**: {most} test clips are too few to compare methods by."]
    return [*lines, ""]


def _table(found: dict[str, Result], missing: list[str], oracle: Oracle | None) -> list[str]:
    if not found and not missing:
        return []
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
    over the same clips. Runs that were not told what an actor does (zero-shot) have a section of their own."""
    taught = {name: result for name, result in found.items() if result.run.held_out is None}
    known = {name: result.confusions for name, result in taught.items() if result.confusions is not None}
    if not known:
        return []
    lines = ["| comparison | measure | difference | 95 % over clips | p |", "|---|---|---:|---:|---:|"]
    for name, ours in known.items():
        variant = f"-{found[name].run.variant}-"
        for counterpart in dict.fromkeys((name.replace("-rgb+flow-", "-rgb-"), name.replace(variant, f"-{FULL}-"))):
            if counterpart != name and counterpart in known:
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


def _sentences(samples: dataset.Dataset, found: dict[str, Result], target: Path) -> list[str]:
    """The picture of the best run of each method on sentences: the one with the highest overall IoU."""
    scored = [
        result
        for result in results.of_section(found.values(), SENTENCES).values()
        if result.metrics[SENTENCES]["overall_iou"] is not None
    ]
    best = {result.run.method: result for result in sorted(scored, key=lambda r: r.metrics[SENTENCES]["overall_iou"])}
    chosen = [best[method] for method in dict.fromkeys(result.run.method for result in scored)]
    answers = {result.run.name: result.answers for result in chosen if result.answers is not None}
    if not answers:
        return []
    if not sheets.write_sentences(samples, answers, target=target):
        return ["No test frame has two sentences that single out two actors of one kind."]
    return [f"![Sentences that single out one of two actors of one kind, and what runs answer]({target.name})"]


def main() -> None:
    """Compare the runs of params.yaml."""
    content = read()
    run(
        load("report", Parameters),
        load("evaluate", segmentation.Parameters),
        dataset.name(),
        content["train"]["common"]["config"],
        miniature=content.get("transfer_data", {}).get("folder", MINIATURE) == MINIATURE,
    )


if __name__ == "__main__":
    cli.run(main)
