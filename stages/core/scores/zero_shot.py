"""Zero-shot scores: actions of an actor that no training example ever showed doing anything.

Source: Kalogeiton et al. 2017, `vic_A2D_eval_zeroshot.m`; Ji et al. 2018 repeat it. One actor is left out at a time:
model k learns where actor k is and never what it does, and is scored on the pairs of actor k alone (in A2D seven
models). There is no list of held-out pairs. The figure is the mean over all valid pairs with ground truth, each scored
on its own actor's model (43 in A2D); not the mean of the seven means.

Methods that find boxes get AP as ``detection`` defines it (variant `tsmt`), methods that give label maps IoU and
accuracy of each pair over all pixels. Predictions lie by actor: ``<actor>/``, or ``<actor>.parquet`` of detections.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from stages.core.datasets.labels import LabelSpace
from stages.core.scores import boxes, detection, maps, resampling, segmentation, sizes
from stages.core.scores.average_precision import Ranking, side_by_side
from stages.core.scores.confusion import Confusions

Kind = Literal["detection", "segmentation"]
RIGHT, TRUE, FOUND = range(3)
"""Pixels of a pair: called right, in the truth, and called so."""


@dataclass(frozen=True)
class Pairs:
    """The valid pairs that are scored, actor by actor."""

    label_space: LabelSpace
    actors: Sequence[str]  # held out, with a model

    @property
    def by_actor(self) -> Mapping[str, list[int]]:
        """Actor -> joint ids of its valid pairs."""
        space = self.label_space
        ids = {actor: space.actors.index(actor) for actor in self.actors}
        return {actor: [pair for pair in space.valid_ids[1:] if pair // space.stride == ids[actor]] for actor in ids}

    @property
    def ids(self) -> list[int]:
        """All of them, in the order of ``by_actor``."""
        return [pair for pairs in self.by_actor.values() for pair in pairs]

    def means(self, figures: Mapping[str, np.ndarray]) -> resampling.Values:
        """Of figures (P,) of each pair: ``<figure>`` over all pairs with ground truth, ``<actor>/<figure>``."""
        found = {name: detection.mean(values) for name, values in figures.items()}
        for actor, pairs in self.by_actor.items():
            of_actor = np.isin(self.ids, pairs)
            found |= {f"{actor}/{name}": detection.mean(values[of_actor]) for name, values in figures.items()}
        return found


@dataclass(frozen=True)
class BoxEvidence:
    """Detections of each actor's model, ranked in that actor's pairs."""

    ranking: Ranking
    pairs: Pairs

    @property
    def clips(self) -> Sequence[str]:
        """Names of the clips."""
        return self.ranking.clips

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """AP (P,) of each pair in percent."""
        return {"pair_map": self.ranking.average_precision(weights)}

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``Pairs.means`` of the figures."""
        return self.pairs.means(self.figures(weights))

    def joined(self, other: Self) -> Self:
        """The clips of both."""
        return type(self)(self.ranking.joined(other.ranking), self.pairs)

    def of_size(self, size: int) -> Self:
        """The same for ground truth of one size."""
        return type(self)(self.ranking.of_size(size), self.pairs)


@dataclass(frozen=True)
class MapEvidence:
    """Pixels of each pair in the label maps of its actor's model."""

    clips: Sequence[str]
    pixels: np.ndarray  # (clips, 3, P) int64: RIGHT, TRUE, FOUND
    pairs: Pairs

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """IoU and accuracy (P,) of each pair in percent, NaN where the truth has none."""
        right, true, found = np.tensordot(weights, self.pixels, axes=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(true > 0, 100 * right / (true + found - right), np.nan)
            return {"mean_iou": iou, "class_accuracy": 100 * right / true}

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``Pairs.means`` of the figures."""
        return self.pairs.means(self.figures(weights))

    def joined(self, other: Self) -> Self:
        """The clips of both."""
        return type(self)([*self.clips, *other.clips], np.concatenate([self.pixels, other.pixels]), self.pairs)


def of_confusions(found: Mapping[str, Confusions]) -> MapEvidence:
    """Evidence of the joint maps of the models by held-out actor; of the clips that all of them hold."""
    first, *others = found.values()
    clips = [clip for clip in first.clips if all(clip in other.clips for other in others)]
    if not clips:
        raise ValueError("no test clip that all models have maps of: nothing can be scored")
    pairs = Pairs(first.label_space, list(found))
    pixels = []
    for actor, ids in pairs.by_actor.items():
        joint = found[actor].only(clips).matrices["joint"]
        counts = np.stack([np.diagonal(joint, axis1=1, axis2=2), joint.sum(2), joint.sum(1)], axis=1)
        pixels.append(counts[:, :, ids])
    return MapEvidence(clips, np.concatenate(pixels, axis=2), pairs)


def of_detections(truth: boxes.Truth, models: Mapping[str, Path], *, count_missing: bool) -> BoxEvidence:
    """Evidence of the detections of the ``models`` by held-out actor; of the clips that all of them looked at."""
    found = {actor: boxes.read_prediction(path, truth) for actor, path in models.items()}
    clips = truth.videos
    for actor, prediction in found.items():
        try:
            seen = set(detection.looked_at(truth, prediction, count_missing=count_missing))
        except ValueError as error:
            raise ValueError(f"{models[actor]}: {error}") from error
        clips = [clip for clip in clips if clip in seen]
    if not clips:
        raise ValueError("no test clip that all models mention: nothing can be scored")
    pairs = Pairs(truth.label_space, list(models))
    rankings = [
        detection.rank(truth, found[actor], clips=clips, of=[("pair", pair) for pair in ids], variant="tsmt")
        for actor, ids in pairs.by_actor.items()
    ]
    return BoxEvidence(side_by_side(rankings), pairs)


Parts = dict[str, BoxEvidence] | dict[str, MapEvidence]


def run(
    truth: Path,
    prediction: Path,
    *,
    kind: Kind,
    against: Path | None = None,
    count_missing: bool = False,
    parameters: resampling.Parameters,
) -> dict[str, Any]:
    """Zero-shot scores, in percent, of the predictions below ``prediction``, a model for each actor held out.

    Gives the figures over all pairs with intervals (and against the models below ``against``), ``splits`` (actor ->
    how many pairs have ground truth, of how many valid ones, and their means), every pair's figures, the figures by
    size, and the coverage. A clip that one model lacks counts for none. Raises ``ValueError`` where a model, a clip
    (detection) or a frame (segmentation) is missing, unless ``count_missing``, and for what the readers of
    predictions refuse.
    """
    score: Callable[..., tuple[Parts, dict[str, Any]]] = _of_boxes if kind == "detection" else _of_maps
    parts, coverage = score(truth, prediction, count_missing=count_missing)
    others = None if against is None else score(truth, against, count_missing=count_missing)[0]
    if others is not None and others[segmentation.ALL].pairs != parts[segmentation.ALL].pairs:
        raise ValueError(f"{prediction} and {against} hold models of other actors; give both the same ones")
    scores = {
        part: summary(evidence, parameters, against=None if others is None else others[part])
        for part, evidence in parts.items()
    }
    whole = scores.pop(segmentation.ALL)
    return whole | {"by_size": scores, "coverage": coverage, "kind": kind}


def summary(
    evidence: BoxEvidence | MapEvidence,
    parameters: resampling.Parameters,
    *,
    against: BoxEvidence | MapEvidence | None = None,
) -> dict[str, Any]:
    """The figures over all pairs, how many ``pairs`` ``of_pairs`` they run over, ``splits`` and ``per_class``."""
    pairs = evidence.pairs
    figures = evidence.figures(np.ones(len(evidence.clips)))
    scored = ~np.isnan(next(iter(figures.values())))
    result: dict[str, Any] = {"pairs": int(scored.sum()), "of_pairs": len(pairs.label_space.valid_ids) - 1}
    splits: dict[str, dict[str, Any]] = {}
    for actor, ids in pairs.by_actor.items():
        splits[actor] = {"pairs": int(scored[np.isin(pairs.ids, ids)].sum()), "of_pairs": len(ids)}
    for name, value in resampling.summary(evidence, parameters, against=against).items():
        actor, _, figure = name.rpartition("/")
        (splits[actor] if actor else result)[figure] = value
    per_class = {
        pairs.label_space.name(pair): {name: float(values[at]) for name, values in figures.items()}
        for at, pair in enumerate(pairs.ids)
        if scored[at]
    }
    return result | {"splits": splits, "per_class": per_class}


def _of_boxes(truth: Path, folder: Path, *, count_missing: bool) -> tuple[Parts, dict[str, Any]]:
    instances = boxes.read_truth(truth)
    models = _models(folder, instances.label_space, count_missing=count_missing)
    evidence = of_detections(instances, models, count_missing=count_missing)
    scored = sum(video in evidence.clips for video, _ in instances.frames)
    parts = {segmentation.ALL: evidence} | {size: evidence.of_size(at) for at, size in enumerate(sizes.SIZES)}
    return parts, _coverage(evidence, scored, len(instances.frames))


def _of_maps(truth: Path, folder: Path, *, count_missing: bool) -> tuple[Parts, dict[str, Any]]:
    annotated = maps.open_truth(truth)
    compared = {}
    for actor, path in _models(folder, annotated.label_space, count_missing=count_missing).items():
        try:
            prediction = maps.open_prediction(path, heads={})
            compared[actor] = segmentation.compare(annotated, prediction, count_missing=count_missing)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    first = next(iter(compared.values()))
    parts = {
        part: of_confusions({actor: found.parts[part] for actor, found in compared.items()}) for part in first.parts
    }
    scored = min(found.scored for found in compared.values())
    return parts, _coverage(parts[segmentation.ALL], scored, first.annotated)


def _models(folder: Path, labels: LabelSpace, *, count_missing: bool) -> dict[str, Path]:
    """Actor held out -> where its model's predictions lie."""
    actors = labels.actors[1:]
    found: dict[str, Path] = {}
    for actor in actors:
        as_folder, as_file = folder / actor, folder / f"{actor}.parquet"
        if as_folder.exists() and as_file.exists():
            raise ValueError(f"{as_folder} and {as_file} are one model; remove one of them")
        if as_folder.exists() or as_file.exists():
            found[actor] = as_folder if as_folder.exists() else as_file
    missing = [actor for actor in actors if actor not in found]
    if not found or (missing and not count_missing):
        raise ValueError(
            f"{folder}: no predictions of the models without the actions of {', '.join(missing)}; put them there as "
            "<actor>/ or <actor>.parquet, or count them as missing (--count-missing)"
        )
    return found


def _coverage(evidence: BoxEvidence | MapEvidence, scored: int, frames: int) -> dict[str, Any]:
    missing = [actor for actor in evidence.pairs.label_space.actors[1:] if actor not in evidence.pairs.actors]
    return {"scored": scored, "of": frames, "clips": len(evidence.clips), "missing_models": missing}
