"""Sections of the report on methods that know sentences or videos (Gavrilyuk et al. 2018), and no label of a pixel.

Lines of Markdown; none where there is nothing to tell.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from stages.core import runs
from stages.core.reporting import results
from stages.core.reporting.ledger import ELSEWHERE
from stages.core.reporting.results import SENTENCES, VIDEOS, Result
from stages.core.reporting.sections import number, with_interval
from stages.core.scores import resampling

PRECISIONS = tuple(f"precision@0.{tenth}" for tenth in range(5, 10))
COMPARED = {"overall_iou": "overall IoU", "mean_iou": "mean IoU", "map": "mAP"}
"""Scores of which differences are shown."""
MOST_WORDS = 3
"""Unknown words that are named, the most frequent ones."""


def segmentation(found: Iterable[Result], missing: Iterable[str]) -> list[str]:
    """The main table of methods on sentences; ``missing`` are names of runs without scores."""
    asked, not_run = results.of_section(found, SENTENCES), list(missing)
    if not asked and not not_run:
        return []
    return [
        "Segmentation from a sentence: percent of the samples, each a sentence about an actor in an annotated frame, "
        "with an IoU above K (P@K); mAP is the mean of such precisions from 0.50 to 0.95 (Gavrilyuk et al.), COCO mAP "
        "that over ranked masks (MTTR and later). Unknown words have no vector.",
        "",
        *_table(asked, not_run),
    ]


def elsewhere(found: Iterable[Result], *, miniature: bool) -> list[str]:
    """The same of runs on another data set than they were trained on."""
    asked = results.of_section(found, SENTENCES)
    if not asked:
        return []
    where = f"a generated miniature in the layout of {ELSEWHERE}" if miniature else ELSEWHERE
    return [f"Segmentation from a sentence on {where}, without any training on it:", "", *_table(asked, [])]


def _table(asked: Mapping[str, Result], missing: Sequence[str]) -> list[str]:
    titles = [precision.replace("precision", "P") for precision in PRECISIONS]
    titles += ["mAP", "overall IoU", "95 % over clips", "mean IoU", "COCO mAP", "samples", "unknown words"]
    lines = [f"| run | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    for name, result in asked.items():
        scores = result.metrics[SENTENCES]
        cells = [number(scores[figure]) for figure in (*PRECISIONS, "map")]
        cells += [with_interval(scores, "overall_iou"), number(scores["mean_iou"]), number(scores["coco_map"])]
        cells += [results.coverage(result), _unknown(result.metrics["unknown_words"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, *(f"| {name} | not run |" + " |" * (len(titles) - 1) for name in missing)]


def _unknown(words: Mapping[str, int]) -> str:
    """How often, and the most frequent ones; of equally frequent ones the first of the alphabet."""
    if not words:
        return "0"
    ranked = sorted(words, key=lambda word: (-words[word], word))
    more = f" and {len(ranked) - MOST_WORDS} more" if len(ranked) > MOST_WORDS else ""
    return f"{sum(words.values())} ({', '.join(ranked[:MOST_WORDS])}{more})"


def comparisons(found: Iterable[Result], index: Path, bootstrap: resampling.Parameters) -> list[str]:
    """Both streams against each alone, variants against the plain run: differences with an interval over the same
    clips of data/index at ``index``."""
    asked = results.of_section(found, SENTENCES)
    lines = []
    for name, counterpart in _pairs(asked):
        ours, others = (asked[one].answers for one in (name, counterpart))
        assert ours is not None and others is not None
        differences = resampling.paired(*results.answered_by_both(ours, others, index), bootstrap)
        for figure, title in COMPARED.items():
            one = differences[figure]
            interval = f"{one.low:+.1f} to {one.high:+.1f} | {one.p:.3f}"
            lines.append(f"| {name} against {counterpart} | {title} | {one.difference:+.1f} | {interval} |")
    if not lines:
        return []
    return ["| comparison | measure | difference | 95 % over clips | p |", "|---|---|---:|---:|---:|", *lines]


def _pairs(asked: Mapping[str, Result]) -> Iterator[tuple[str, str]]:
    for name, result in asked.items():
        run_ = result.run
        inputs, variant = f"{run_.method}-{run_.inputs}-", f"-{run_.variant}-{run_.seed}"
        counterparts = []
        if run_.inputs == "rgb+flow":
            counterparts = [name.replace(inputs, f"{run_.method}-{alone}-") for alone in ("rgb", "flow")]
        if run_.variant != runs.FULL:
            counterparts.append(name.replace(variant, f"-{runs.FULL}-{run_.seed}"))
        yield from ((name, counterpart) for counterpart in counterparts if counterpart in asked)


def emptiness(found: Iterable[Result]) -> list[str]:
    """How much is segmented where a sentence means nobody in the frame, beside where it means somebody."""
    told = {name: one.metrics["emptiness"] for name, one in results.of_section(found, SENTENCES).items()}
    kinds = list(dict.fromkeys(kind for scores in told.values() for kind in scores))
    if not kinds:
        return []
    counts = {kind: max(scores[kind]["samples"] for scores in told.values() if kind in scores) for kind in kinds}
    titles = [f"{kind.replace('_', ' ')}: {figure}" for kind in kinds for figure in ("share", "empty")]
    lines = [
        "Masks where nobody is meant: the mean share of the frame that a mask covers, and of masks those under 1 % of "
        "the frame; percent. `asked` are sentences about an actor in the frame, the others about nobody in it: "
        + ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items())
        + ".",
        "",
        f"| run | {' | '.join(titles)} |",
        "|---|" + "---:|" * len(titles),
    ]
    for name, scores in told.items():
        cells = [number(scores.get(kind, {}).get(figure)) for kind in kinds for figure in ("share", "empty")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def videos(found: Iterable[Result], missing: Iterable[str]) -> list[str]:
    """What videos show, told of each as a whole; ``missing`` are names of runs without scores."""
    scored, not_run = results.of_section(found, VIDEOS), list(missing)
    if not scored and not not_run:
        return []
    lines = [
        "Videos: average precision when they are ranked by their score for a pair, the mean over the pairs that some "
        "test video shows.",
        "",
        "| run | mAP | 95 % over videos | pairs | videos |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, result in scored.items():
        scores = result.metrics[VIDEOS]
        cells = [with_interval(scores, "mean_average_precision"), str(scores["pairs"]), results.coverage(result)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, *(f"| {name} | not run | | | |" for name in not_run)]
