"""Scores of segmentation from a sentence (Gavrilyuk et al. 2018, section 5.2; MTTR's metrics.py), in percent.

With I and U the pixels of intersection and union of a sample's mask and its best-scored prediction:

    precision@K     samples with I / U above K; at least K, as Gavrilyuk's lineage (ACGA) counts, where asked for
    map             mean of precision over K = .50, .55, ..., .95: Gavrilyuk's mAP
    mean_iou        mean of (I + 1e-6) / (U + 1e-6), so that nothing predicted where nothing is counts 1
    overall_iou     sum of I over sum of U
    coco_map        COCO's mAP over all scored predictions, categories unused: MTTR's mAP, another number

Files are COCO json, a sample an image: the truth as ``stages.core.datasets.sentences.coco_truth`` or MTTR writes it,
predictions a list of ``{"image_id": ..., "segmentation": {"size": [h, w], "counts": "..."}, "score": ...}``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from pycocotools import mask as coco

from stages.core.datasets.sentences import Scored, predicted_masks, true_masks, video_of
from stages.core.packs.masks import Rle
from stages.core.scores import resampling, sizes

TRUTH, ANSWERS = "sentences.json", "answers.json"
"""Such files: in data/index what is asked of test frames, and in a run's predictions/ what it answers."""
LEVELS = np.arange(10, 20) / 20
"""K. Divided once, as I / U is, so that an overlap of exactly K is seen as such."""
OVERLAPS = np.linspace(0.5, 0.95, len(LEVELS))
RECALLS = np.linspace(0, 1, 101)
MOST = 100
"""Predictions of an image that COCO looks at, the best-scored ones (all three as in COCOeval)."""
EPSILON = 1e-6

SAMPLE = np.dtype([("clip", np.int64), ("order", np.int64), ("intersection", np.int64), ("union", np.int64)])
"""``clip``: a position in the clips. ``order``: where predictions of one score stand, by image id as in COCOeval."""
PREDICTION = np.dtype(
    [("sample", np.int64), ("rank", np.int64), ("score", np.float64), ("hit", np.bool_, len(OVERLAPS))]
)
"""``sample``: a position in the samples. ``rank``: among the sample's, by score. ``hit``: first to reach OVERLAPS."""


@dataclass(frozen=True)
class SentenceEvidence:
    """What is known of N samples and their D predictions; a clip is a video with samples."""

    clips: tuple[str, ...]
    samples: np.ndarray  # (N,) SAMPLE
    predictions: np.ndarray  # (D,) PREDICTION
    at_least: bool = False

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """Scores in percent, clip i counted ``weights[i]`` times; NaN where no sample is left."""
        count, iou, intersection, union, *reached = weights @ self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            precisions = 100 * np.array(reached) / count
            measured = {f"precision@{level}": precisions[i] for i, level in enumerate(LEVELS) if i % 2 == 0}
            measured |= {"overall_iou": 100 * intersection / union, "mean_iou": 100 * iou / count}
        measured |= {"map": precisions.mean(), "coco_map": self._coco_map(weights)}
        return {name: float(value) for name, value in measured.items()}

    def joined(self, other: Self) -> Self:
        """The clips of both, ``other``'s after its own."""
        samples = np.concatenate([self.samples, other.samples])
        samples["clip"][len(self.samples) :] += len(self.clips)
        predictions = np.concatenate([self.predictions, other.predictions])
        predictions["sample"][len(self.predictions) :] += len(self.samples)
        return replace(self, clips=(*self.clips, *other.clips), samples=samples, predictions=predictions)

    def only(self, chosen: np.ndarray) -> Self:
        """The ``chosen`` (N,) bool samples, and the clips that have one."""
        samples, predictions = self.samples[chosen], self.predictions[chosen[self.predictions["sample"]]]
        clips, samples["clip"] = np.unique(samples["clip"], return_inverse=True)
        predictions["sample"] = (np.cumsum(chosen) - 1)[predictions["sample"]]
        return replace(self, clips=tuple(self.clips[i] for i in clips), samples=samples, predictions=predictions)

    @cached_property
    def _sums(self) -> np.ndarray:
        """(clips, 14) sums over each clip's samples: number, IoU, intersection, union, and those that reach LEVELS."""
        intersection, union = self.samples["intersection"], self.samples["union"]
        overlap = np.where(union > 0, intersection / np.maximum(union, 1), 1)[:, np.newaxis]
        reached = overlap >= LEVELS if self.at_least else overlap > LEVELS
        iou = (intersection + EPSILON) / (union + EPSILON)
        sums = np.zeros((len(self.clips), 4 + len(LEVELS)))
        np.add.at(sums, self.samples["clip"], np.column_stack([np.ones(len(iou)), iou, intersection, union, reached]))
        return sums

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """(D,) the clip of each prediction, best score first, and the positions of each overlap's hits in it."""
        sample = self.samples[self.predictions["sample"]]
        falling = np.lexsort((self.predictions["rank"], sample["order"], -self.predictions["score"]))
        return sample["clip"][falling], [np.flatnonzero(hit) for hit in self.predictions["hit"][falling].T]

    def _coco_map(self, weights: np.ndarray) -> float:
        """COCOeval's accumulation, with weights. Recall rises at hits alone, so that only they are visited."""
        positives = weights[self.samples["clip"]].sum()
        if positives == 0:
            return float("nan")
        clip, hits = self._ranked
        predicted = np.cumsum(weights[clip])
        total = 0.0
        for positions in hits:
            found = np.cumsum(weights[clip[positions]])
            precision = found / (predicted[positions] + np.spacing(1))
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(found / positives, RECALLS, side="left")
            total += envelope[at[at < len(envelope)]].sum()
        return 100 * total / (len(hits) * len(RECALLS))


@dataclass(frozen=True)
class Comparison:
    """One or two methods' evidence of the same N samples."""

    evidence: SentenceEvidence
    against: SentenceEvidence | None
    size: np.ndarray  # (N,) of each sample, a position in sizes.SIZES
    thirds: sizes.Thirds  # of all true masks, those of samples without prediction too
    of: int  # samples of the truth


def load(
    truth: Path, prediction: Path, *, against: Path | None = None, count_missing: bool = False, at_least: bool = False
) -> Comparison:
    """Read COCO json and ``compare``. Raises ``ValueError`` that names the file and what is wrong with it."""
    paths = [prediction] if against is None else [prediction, against]
    for path in (truth, *paths):
        if not path.is_file():
            raise ValueError(f"{path} is no file; give COCO json")
    masks = true_masks(truth.read_bytes(), where=str(truth))
    predictions = [predicted_masks(path.read_bytes(), masks, where=str(path)) for path in paths]
    return compare(masks, *predictions, count_missing=count_missing, at_least=at_least)


def compare(
    truth: Mapping[str, Rle],
    prediction: Mapping[str, Sequence[Scored]],
    against: Mapping[str, Sequence[Scored]] | None = None,
    *,
    count_missing: bool = False,
    at_least: bool = False,
) -> Comparison:
    """Match one or two methods' predictions with ``truth``, both by image id; no mask is decoded.

    Raises ``ValueError`` for a sample without prediction, unless ``count_missing``: then it is left out of every score,
    of both methods, and lowers the coverage.
    """
    methods = [prediction] if against is None else [prediction, against]
    scored = [image_id for image_id in sorted(truth) if all(image_id in method for method in methods)]
    if not scored:
        raise ValueError("no sample has a prediction: nothing can be scored")
    if len(scored) < len(truth) and not count_missing:
        missing = min(truth.keys() - scored)
        raise ValueError(
            f"{len(truth) - len(scored)} of {len(truth)} samples have no prediction, `{missing}` first; predict them "
            "(an empty mask is a prediction), or count them as missing (--count-missing)"
        )
    masks = [truth[image_id] for image_id in scored]
    clips, clip = np.unique([video_of(image_id) for image_id in scored], return_inverse=True)
    evidence = [
        SentenceEvidence(tuple(map(str, clips)), *_matched(clip, masks, [method[i] for i in scored]), at_least=at_least)
        for method in methods
    ]
    thirds = sizes.thirds(areas(list(truth.values())))
    return Comparison(
        evidence=evidence[0],
        against=None if against is None else evidence[1],
        size=thirds.of(areas(masks)),
        thirds=thirds,
        of=len(truth),
    )


def areas(masks: Sequence[Rle]) -> np.ndarray:
    """(N,) int64 pixels. One call a mask: pycocotools 2.0.11 refuses more than 255 at once."""
    return np.array([coco.area(mask) for mask in masks], np.int64)


def run(
    truth: Path,
    prediction: Path,
    *,
    against: Path | None = None,
    count_missing: bool = False,
    at_least: bool = False,
    parameters: resampling.Parameters,
) -> dict[str, Any]:
    """Scores with intervals over videos, the same ``by_size`` of the true mask, and the ``coverage``.

    ``against``: a second method's predictions, and every score's paired difference to it. ``by_size`` has the
    ``thresholds`` in pixels: small up to the first, large above the second; a size without samples has no scores.
    Raises ``ValueError`` as ``load`` does.
    """
    compared = load(truth, prediction, against=against, count_missing=count_missing, at_least=at_least)
    by_size: dict[str, Any] = {"thresholds": [compared.thirds.low, compared.thirds.high]}
    for position, size in enumerate(sizes.SIZES):
        chosen = compared.size == position
        by_size[size] = {"samples": int(chosen.sum())}
        if chosen.any():
            other = None if compared.against is None else compared.against.only(chosen)
            by_size[size] |= resampling.summary(compared.evidence.only(chosen), parameters, against=other)
    evidence = compared.evidence
    return {
        **resampling.summary(evidence, parameters, against=compared.against),
        "by_size": by_size,
        "coverage": {"scored": len(evidence.samples), "of": compared.of, "clips": len(evidence.clips)},
    }


def _matched(
    clip: np.ndarray, truth: Sequence[Rle], predicted: Sequence[Sequence[Scored]]
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) SAMPLE and (D,) PREDICTION of masks in the order of the image ids."""
    samples = np.empty(len(truth), SAMPLE)
    samples["clip"], samples["order"] = clip, np.arange(len(truth))
    predictions = np.empty(sum(min(len(found), MOST) for found in predicted), PREDICTION)
    best, common, start = [], [], 0
    for position, (mask, found) in enumerate(zip(truth, predicted, strict=True)):
        best.append(max(reversed(found), key=lambda scored: scored[0])[1])  # of equal scores the last, as MTTR does
        common.append(coco.merge([best[-1], mask], intersect=True))
        ranked = sorted(found, key=lambda scored: -scored[0])[:MOST]
        enough = coco.iou([rle for _, rle in ranked], [mask], [0]) >= OVERLAPS
        rows = predictions[start : start + len(ranked)]
        rows["sample"], rows["rank"] = position, np.arange(len(ranked))
        rows["score"] = [score for score, _ in ranked]
        rows["hit"] = enough & (np.cumsum(enough, axis=0) == 1)
        start += len(ranked)
    samples["intersection"] = areas(common)
    samples["union"] = areas(best) + areas(truth) - samples["intersection"]
    return samples, predictions
