"""Score of multi-label video classification (Gavrilyuk et al. 2018, section 5.3: 70 %), in percent.

The mean over A2D's 43 valid pairs of the average precision of videos, ranked by their score for the pair. A video's
pairs are those of all instances in its annotated test frames. The paper doesn't say which average precision it takes:
by default the area under the ranking's steps (scikit-learn's ``average_precision_score``), VOC 2007's eleven points
where asked for. A pair that no video has does not count.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, Self

import numpy as np

from stages.core import schemas
from stages.core.datasets.labels import A2D, LabelSpace
from stages.core.datasets.shown import Truth, load_truth
from stages.core.params import nearest
from stages.core.scores import resampling, sizes

VOC07_RECALLS = np.arange(11) / 10


@dataclass(frozen=True)
class ClassificationEvidence:
    """V videos, the clips: which of P pairs each shows, and its scores."""

    clips: tuple[str, ...]
    shown: np.ndarray  # (V, P) bool
    scores: np.ndarray  # (V, P) float
    voc07: bool = False

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``mean_average_precision`` in percent, video i counted ``weights[i]`` times; NaN where no pair is shown."""
        found = self.average_precisions(weights)
        counted = found[~np.isnan(found)]
        return {"mean_average_precision": float(counted.mean()) if len(counted) else float("nan")}

    def joined(self, other: Self) -> Self:
        """The videos of both, ``other``'s after its own."""
        shown, scores = np.concatenate([self.shown, other.shown]), np.concatenate([self.scores, other.scores])
        return replace(self, clips=(*self.clips, *other.clips), shown=shown, scores=scores)

    def only(self, chosen: np.ndarray) -> Self:
        """The ``chosen`` (V,) bool videos."""
        clips = tuple(compress(self.clips, chosen))
        return replace(self, clips=clips, shown=self.shown[chosen], scores=self.scores[chosen])

    def average_precisions(self, weights: np.ndarray) -> np.ndarray:
        """(P,) in percent, NaN for a pair that no video of positive weight shows."""
        ranks, shown, ends = self._ranked
        weight = weights[ranks]
        right = weight * shown
        found, all_ranked = np.cumsum(right, axis=1), np.cumsum(weight, axis=1)
        positives = found[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            # Videos of one score are ranked together: what is known of any of them is known after the last.
            precision = np.take_along_axis(np.where(all_ranked > 0, found / all_ranked, 0), ends, axis=1)
            if not self.voc07:
                return 100 * (right * precision).sum(1) / positives[:, 0]
            recall = np.take_along_axis(found / positives, ends, axis=1)
        best = [np.where(recall >= least, precision, 0).max(1) for least in VOC07_RECALLS]
        return np.where(positives[:, 0] > 0, 100 * np.mean(best, axis=0), np.nan)

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(P, V) each: videos by falling score, whether they show the pair, position of the last of that score."""
        ranks = np.argsort(-self.scores.T, axis=1, kind="stable")
        scores = np.take_along_axis(self.scores.T, ranks, axis=1)
        count = scores.shape[1]
        last = np.concatenate([scores[:, 1:] != scores[:, :-1], np.ones((len(scores), 1), bool)], axis=1)
        ends = np.minimum.accumulate(np.where(last, np.arange(count), count)[:, ::-1], axis=1)[:, ::-1]
        return ranks, np.take_along_axis(self.shown.T, ranks, axis=1), ends


def load_scores(path: Path, *, labels: LabelSpace = A2D) -> dict[str, np.ndarray]:
    """Video -> (P,) scores, of ``schemas.VIDEO_SCORES`` (.parquet) or a CSV with the header ``video,<pair>,...``.

    Pairs have the names of ``LabelSpace.name`` (adult-climbing), in any order. Raises ``ValueError`` for a pair unknown
    or missing, a video twice, a score that is no finite number.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a CSV or Parquet file of scores")
    pairs = [labels.name(label) for label in labels.valid_ids[1:]]
    found: dict[str, np.ndarray] = {}
    for video, row in _csv_rows(path, pairs) if path.suffix == ".csv" else _parquet_rows(path):
        if video in found:
            raise ValueError(f"{path}: video `{video}` stands twice; average its scores")
        try:
            scores = np.array(row, float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: video `{video}`: {error}") from error
        if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
            raise ValueError(f"{path}: video `{video}`: {len(pairs)} finite scores are needed, one a pair")
        found[video] = scores
    return found


def compare(
    truth: Truth, *methods: Mapping[str, np.ndarray], count_missing: bool = False, voc07: bool = False
) -> list[ClassificationEvidence]:
    """Evidence of each method's scores of the videos of ``truth``; scores of other videos are not used.

    Raises ``ValueError`` for a video without scores, unless ``count_missing``: then it is left out of every method's
    score.
    """
    scored = np.array([all(video in method for method in methods) for video in truth.videos])
    if not scored.any():
        raise ValueError("no annotated test video has scores: nothing can be scored")
    if not scored.all() and not count_missing:
        missing = f"{np.sum(~scored)} of {len(scored)} videos have no scores, `{truth.videos[np.argmin(scored)]}` first"
        raise ValueError(f"{missing}; predict them, or count them as missing (--count-missing)")
    videos = tuple(compress(truth.videos, scored))
    return [
        ClassificationEvidence(videos, truth.shown[scored], np.stack([method[video] for video in videos]), voc07)
        for method in methods
    ]


def run(
    truth: Path,
    prediction: Path,
    *,
    against: Path | None = None,
    count_missing: bool = False,
    voc07: bool = False,
    labels: LabelSpace = A2D,
    parameters: resampling.Parameters,
) -> dict[str, Any]:
    """The score with its interval over videos, ``pairs`` that count, ``per_pair``, ``by_size``, and the ``coverage``.

    ``truth`` is data/index. ``against``: a second method's scores, and the paired difference to it. ``by_size`` has the
    ``thresholds`` in shares of the frame that actors cover: small up to the first, large above the second. The coverage
    counts videos ``without_truth`` (of the other split, not annotated), which have scores and no use.
    """
    known = load_truth(truth, labels=labels)
    methods = [load_scores(path, labels=labels) for path in (prediction, against) if path is not None]
    evidence = compare(known, *methods, count_missing=count_missing, voc07=voc07)
    clips = evidence[0].clips
    thirds = sizes.thirds(known.area)
    size = thirds.of(known.area[np.isin(known.videos, clips)])
    by_size: dict[str, Any] = {"thresholds": [thirds.low, thirds.high]}
    for position, name in enumerate(sizes.SIZES):
        chosen = size == position
        by_size[name] = {"videos": int(chosen.sum())}
        if chosen.any():
            by_size[name] |= _summary([method.only(chosen) for method in evidence], parameters)
    precisions, counts = evidence[0].average_precisions(np.ones(len(clips))), evidence[0].shown.sum(0)
    per_pair = {
        labels.name(label): {"average_precision": float(precision), "videos": int(count)}
        for label, precision, count in zip(labels.valid_ids[1:], precisions, counts, strict=True)
        if count
    }
    coverage: dict[str, Any] = {"scored": len(clips), "of": len(known.videos), "clips": len(clips)}
    coverage["without_truth"] = len(methods[0].keys() - set(known.videos))
    coverage["invalid_pairs"] = list(known.left_out)
    return {**_summary(evidence, parameters), "per_pair": per_pair, "by_size": by_size, "coverage": coverage}


def _summary(evidence: Sequence[ClassificationEvidence], parameters: resampling.Parameters) -> dict[str, Any]:
    against = evidence[1] if len(evidence) > 1 else None
    pairs = int(evidence[0].shown.any(0).sum())
    return {**resampling.summary(evidence[0], parameters, against=against), "pairs": pairs}


def _parquet_rows(path: Path) -> Iterator[tuple[str, Sequence[Any]]]:
    columns = schemas.read_parquet(path, schemas.VIDEO_SCORES).to_pydict()
    return zip(columns["video"], columns["scores"], strict=True)


def _csv_rows(path: Path, pairs: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Scores in the order of ``pairs``."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        first, *names = [field.strip() for field in next(lines, [""])]
        if first != "video":
            raise ValueError(f"{path}: the first line must be video,{pairs[0]},{pairs[1]},...; found `{first}` first")
        if unknown := [name for name in names if name not in pairs]:
            raise ValueError(f"{path}: no pair `{unknown[0]}`{nearest(unknown[0], list(pairs))}")
        if wrong := [pair for pair in pairs if names.count(pair) != 1]:
            raise ValueError(f"{path}: every valid pair has one column; none or several of {', '.join(wrong)}")
        for video, *row in filter(None, lines):
            if len(row) != len(names):
                raise ValueError(f"{path}:{lines.line_num}: {len(row)} scores for {len(names)} pairs")
            of = dict(zip(names, row, strict=True))
            yield video, [of[pair] for pair in pairs]
