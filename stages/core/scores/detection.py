"""Detection scores: AP of boxes for pairs, actors and actions, by the protocol of Kalogeiton et al. 2017.

A pair's score is the actor's times the action's, an actor's or action's its own; the box is that of the detection,
whichever actor it is of (in the protocol an action's box is that of the best actor: here a detection has one box).
A detection stands in every class that it gives more than 0; pairs that can't occur cost nothing and find nothing.
``pair_map`` is the mean AP over the valid pairs with ground truth (43 in A2D), ``actor_map`` over the actors (7),
``action_map`` over the actions, where the protocol leaves `none` out (8). Variant `csc249` is C. Xu's group's: an IoU
of exactly one half is not enough, and `none` is an action as the others (9). Axes as in ``average_precision``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from stages.core.datasets.labels import LabelSpace
from stages.core.scores import boxes, resampling, sizes
from stages.core.scores.average_precision import COLUMNS, OVERLAP, Ranking, areas, intersection_over_union, suppressed

Variant = Literal["tsmt", "csc249"]
KINDS = ("pair", "actor", "action")
Category = tuple[str, int]
"""Kind and id: ("pair", 17), ("actor", 1), ("action", 7)."""


def categories(labels: LabelSpace) -> list[Category]:
    """Everything that has an AP: valid pairs, actors and actions, background left out."""
    ids = {"pair": labels.valid_ids[1:], "actor": range(1, len(labels.actors)), "action": range(1, len(labels.actions))}
    return [(kind, label) for kind in KINDS for label in ids[kind]]


@dataclass(frozen=True)
class Evidence:
    """The ranked detections of every category."""

    ranking: Ranking
    label_space: LabelSpace
    variant: Variant

    @property
    def clips(self) -> Sequence[str]:
        """Names of the clips."""
        return self.ranking.clips

    @cached_property
    def averaged(self) -> Mapping[str, np.ndarray]:
        """Kind -> positions of the categories that its mean runs over, where they have ground truth."""
        found: dict[str, list[int]] = {kind: [] for kind in KINDS}
        for position, (kind, label) in enumerate(categories(self.label_space)):
            is_none = kind == "action" and self.label_space.actions[label] == "none"
            if not is_none or self.variant == "csc249":
                found[kind].append(position)
        return {kind: np.array(positions) for kind, positions in found.items()}

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``pair_map``, ``actor_map`` and ``action_map`` in percent; NaN where there is no ground truth at all."""
        found = self.ranking.average_precision(weights)
        return {f"{kind}_map": mean(found[positions]) for kind, positions in self.averaged.items()}

    def joined(self, other: Self) -> Self:
        """The clips of both."""
        return type(self)(self.ranking.joined(other.ranking), self.label_space, self.variant)

    def of_size(self, size: int) -> Self:
        """The same for ground truth of one size."""
        return type(self)(self.ranking.of_size(size), self.label_space, self.variant)


def mean(values: np.ndarray) -> float:
    """Mean of what is defined, NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def looked_at(truth: boxes.Truth, prediction: boxes.Prediction, *, count_missing: bool) -> list[str]:
    """The truth's clips that ``prediction`` mentions.

    Raises ``ValueError`` for one it doesn't, unless those are counted, and where it mentions none.
    """
    missing = [video for video in truth.videos if video not in prediction.videos]
    if missing and not count_missing:
        raise ValueError(
            f"no detections of {len(missing)} of {len(truth.videos)} clips, the first is {missing[0]}; where nothing "
            "was found write an empty <video>.parquet into a folder, or count them as missing (--count-missing)"
        )
    if len(missing) == len(truth.videos):
        raise ValueError("no test clip has a prediction: nothing can be scored")
    return [video for video in truth.videos if video in prediction.videos]


def rank(
    truth: boxes.Truth,
    prediction: boxes.Prediction,
    *,
    clips: Sequence[str],
    of: Sequence[Category],
    variant: Variant,
) -> Ranking:
    """The detections in ``clips``, ranked in each category of ``of`` and matched with the ground truth."""
    thirds = sizes.thirds(truth.areas)
    positives = np.zeros((len(of), len(clips), len(sizes.SIZES)), np.int64)
    clip_positions = {clip: position for position, clip in enumerate(clips)}
    ranked: list[list[np.ndarray]] = []
    for frame, instances in truth.frames.items():
        if frame[0] not in clip_positions:
            continue
        clip = clip_positions[frame[0]]
        wanted = _wanted(instances, of, truth.label_space)
        instance_sizes = thirds.of(areas(instances.boxes))
        for instance, category in wanted:
            positives[category, clip, instance_sizes[instance]] += 1
        if frame not in prediction.frames:
            continue
        detections = prediction.frames[frame]
        scores = _scores(detections, of, truth.label_space)
        # Scores of 0 come last, so that they take nothing else away.
        kept = ~suppressed(intersection_over_union(detections.boxes, detections.boxes), scores) & (scores > 0)
        matched = _matched(instances, detections, wanted, instance_sizes, np.where(kept, scores, -1), variant)
        of_category, box = np.nonzero(kept)
        of_clip = np.full(len(box), clip, np.int32)
        own_sizes = thirds.of(areas(detections.boxes)).astype(np.uint8)
        ranked.append([of_category.astype(np.int16), scores[kept], of_clip, matched[kept], own_sizes[box]])
    columns = [
        np.concatenate([np.zeros(0, dtype), *(part[number] for part in ranked)])
        for number, dtype in enumerate((np.int16, np.float64, np.int32, np.uint8, np.uint8))
    ]
    return Ranking.ordered(clips, positives, **dict(zip(COLUMNS, columns, strict=True)))


def run(
    truth: Path,
    prediction: Path,
    *,
    against: Path | None = None,
    variant: Variant = "tsmt",
    count_missing: bool = False,
    parameters: resampling.Parameters,
) -> dict[str, Any]:
    """Scores of the detections at ``prediction`` on the test frames of data/index at ``truth``, in percent.

    Gives the three means with intervals (and against the detections at ``against``), over how many classes each runs,
    every class's AP, the means by size (thirds of the ground truth's box area), and the frames covered. Raises
    ``ValueError`` for what ``boxes.read_truth``, ``boxes.read_prediction`` and ``looked_at`` refuse.
    """
    instances = boxes.read_truth(truth)

    def evidence(path: Path) -> Evidence:
        found = boxes.read_prediction(path, instances)
        clips = looked_at(instances, found, count_missing=count_missing)
        of = categories(instances.label_space)
        return Evidence(rank(instances, found, clips=clips, of=of, variant=variant), instances.label_space, variant)

    scored = evidence(prediction)
    other = None if against is None else evidence(against)
    thirds = sizes.thirds(instances.areas)
    clips = set(scored.clips)
    average_precision = scored.ranking.average_precision(np.ones(len(clips)))
    by_size: dict[str, Any] = {"thirds": [thirds.low, thirds.high]}
    for size, name in enumerate(sizes.SIZES):
        against_size = None if other is None else other.of_size(size)
        by_size[name] = resampling.summary(scored.of_size(size), parameters, against=against_size)
    return resampling.summary(scored, parameters, against=other) | {
        "classes": {kind: int(np.sum(~np.isnan(average_precision[at]))) for kind, at in scored.averaged.items()},
        "per_class": per_class(average_precision, categories(instances.label_space), instances.label_space),
        "by_size": by_size,
        "coverage": {
            "scored": sum(video in clips for video, _ in instances.frames),
            "of": len(instances.frames),
            "clips": len(clips),
        },
        "variant": variant,
    }


def per_class(average_precision: np.ndarray, of: Sequence[Category], labels: LabelSpace) -> dict[str, dict[str, float]]:
    """Kind -> name -> AP, of the categories with ground truth."""
    names: dict[str, Callable[[int], str]] = {
        "pair": labels.name,
        "actor": labels.actors.__getitem__,
        "action": labels.actions.__getitem__,
    }
    found: dict[str, dict[str, float]] = {kind: {} for kind in dict.fromkeys(kind for kind, _ in of)}
    for (kind, label), value in zip(of, average_precision, strict=True):
        if not np.isnan(value):
            found[kind][names[kind](label)] = float(value)
    return found


def _wanted(instances: boxes.Instances, of: Sequence[Category], labels: LabelSpace) -> list[tuple[int, int]]:
    """(instance, position of the category) of everything that is to be found in a frame."""
    position = {category: number for number, category in enumerate(of)}
    found = []
    for instance, (actor, actions) in enumerate(zip(instances.actors.tolist(), instances.actions, strict=True)):
        meant = [("actor", actor), *(("action", action) for action in actions)]
        meant += [("pair", actor * labels.stride + action) for action in actions]
        found += [(instance, position[category]) for category in meant if category in position]
    return found


def _matched(
    instances: boxes.Instances,
    detections: boxes.Detections,
    wanted: Sequence[tuple[int, int]],
    instance_sizes: np.ndarray,
    scores: np.ndarray,
    variant: Variant,
) -> np.ndarray:
    """(C, D) uint8, as ``Ranking.matched``; ``scores`` (C, D) are negative where a detection was suppressed."""
    iou = intersection_over_union(instances.boxes, detections.boxes)
    overlapping = iou > OVERLAP if variant == "csc249" else iou >= OVERLAP
    matched = np.zeros(scores.shape, np.uint8)
    for instance, category in wanted:
        candidates = np.where(overlapping[instance], scores[category], -1)
        first = candidates.argmax()
        if candidates[first] >= 0:
            matched[category, first] |= 1 << instance_sizes[instance]
    return matched


def _scores(detections: boxes.Detections, of: Sequence[Category], labels: LabelSpace) -> np.ndarray:
    """(C, D) score of every detection in every category."""
    rows = {"actor": detections.actors.T, "action": detections.actions.T}
    return np.stack(
        [
            rows["actor"][label // labels.stride] * rows["action"][label % labels.stride]
            if kind == "pair"
            else rows[kind][label]
            for kind, label in of
        ]
    )
