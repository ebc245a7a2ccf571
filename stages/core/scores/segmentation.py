"""Segmentation scores of anybody's label maps (``stages.core.scores.maps``), compared clip by clip."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages.core.datasets.labels import IGNORE, LabelSpace
from stages.core.scores import confusion, resampling, sizes
from stages.core.scores.confusion import Confusions, class_rows
from stages.core.scores.maps import Prediction, Truth, open_prediction, open_truth

ALL, NON_BOUNDARY = "all", "non_boundary"


class Parameters(resampling.Parameters):
    """Section ``evaluate`` of params.yaml."""

    non_boundary: int
    precision: Literal["float32", "bfloat16"] = "float32"  # in which networks predict (models.parts.folding)


@dataclass(frozen=True)
class Comparison:
    """What a comparison gives: evidence, and how many of the annotated frames it covers."""

    parts: Mapping[str, Confusions]  # all; non_boundary where asked for; small, medium and large where there are actors
    thirds: sizes.Thirds | None  # the areas that part sizes, in pixels
    scored: int  # frames
    annotated: int

    @property
    def confusions(self) -> Confusions:
        """Of every labelled pixel."""
        return self.parts[ALL]


def compare(truth: Truth, prediction: Prediction, *, non_boundary: int = 0, count_missing: bool = False) -> Comparison:
    """Compare ``prediction`` with ``truth``, one frame in memory at a time.

    ``non_boundary``: width in pixels of a band around label changes; what lies outside it is scored once more. Raises
    ``ValueError`` for an unknown id, a map of another resolution, and a frame without prediction, unless
    ``count_missing``: then it lowers the coverage and no score. Of the scores by size, pixels of actors of other sizes
    are left out; background is not.
    """
    if truth.label_space.multi_label:
        raise ValueError("an actor does several things at once in this data set: score it by `multi-label`")
    thirds = _thirds(truth)
    clips: dict[str, dict[str, list[np.ndarray]]] = {}
    videos = []
    scored = annotated = 0
    for video in truth.videos:
        found: dict[str, dict[str, np.ndarray]] = {}
        for frame in truth.annotated(video):
            annotated += 1
            where = f"{video}, frame {frame + 1}"
            maps = prediction.maps(video, frame)
            if maps is None:
                if not count_missing:
                    raise ValueError(f"{where}: no prediction; make it, or count it as missing (--count-missing)")
                continue
            for part, labels in _parts(truth, video, frame, thirds, non_boundary):
                for kind, matrix in _matrices(labels, maps, truth.label_space, where=where):
                    sums = found.setdefault(part, {})
                    sums[kind] = sums[kind] + matrix if kind in sums else matrix
            scored += 1
        if found:
            videos.append(video)
            _append(clips, found, video)
    if not videos:
        raise ValueError("no annotated frame has a prediction: nothing can be scored")
    evidence = {
        part: Confusions(videos, {kind: np.stack(matrices) for kind, matrices in kinds.items()}, truth.label_space)
        for part, kinds in clips.items()
    }
    return Comparison(evidence, thirds, scored, annotated)


def run(
    truth: Path,
    prediction: Path,
    *,
    heads: Mapping[str, Path],
    against: Path | None = None,
    count_missing: bool = False,
    parameters: Parameters,
) -> dict[str, Any]:
    """``summary`` of the label maps at ``prediction``, with every class, and the coverage in frames and clips.

    ``heads`` are folders of the heads' own maps of ``prediction``. Raises ``ValueError`` as ``compare`` does.
    """
    true = open_truth(truth)

    def compared(folder: Path, folders: Mapping[str, Path]) -> Comparison:
        predicted = open_prediction(folder, heads=folders)
        return compare(true, predicted, non_boundary=parameters.non_boundary, count_missing=count_missing)

    found = compared(prediction, heads)
    result = summary(found, parameters, against=None if against is None else compared(against, {}))
    for kind, label, name, accuracy, iou in class_rows(found.confusions):
        result[kind].setdefault("per_class", {})[name] = {"id": label, "accuracy": accuracy, "iou": iou}
    result["coverage"] = {"scored": found.scored, "of": found.annotated, "clips": len(found.confusions.clips)}
    return result


def summary(
    compared: Comparison, parameters: resampling.Parameters, *, against: Comparison | None = None
) -> dict[str, Any]:
    """Scores by kind with intervals over clips, the same without boundaries and by the actor's size, and the
    difference to ``against``."""
    scores = {
        part: _scores(found, parameters, against=None if against is None else against.parts[part])
        for part, found in compared.parts.items()
    }
    result = scores.pop(ALL)
    if NON_BOUNDARY in scores:
        result[NON_BOUNDARY] = scores.pop(NON_BOUNDARY)
    if compared.thirds is not None:
        result["by_size"] = {"thirds": [compared.thirds.low, compared.thirds.high]} | scores
    return result


def _scores(confusions: Confusions, parameters: resampling.Parameters, *, against: Confusions | None) -> dict[str, Any]:
    """``resampling.summary`` with a dictionary a kind."""
    flat = resampling.summary(confusions, parameters, against=against)
    differences = flat.pop("against", {})
    result: dict[str, Any] = {}
    for name, value in flat.items():
        kind, _, figure = name.partition("/")
        result.setdefault(kind, {})[figure] = value
    for name, difference in differences.items():
        kind, _, figure = name.partition("/")
        result[kind].setdefault("against", {})[figure] = difference
    for kind, found in confusions.scores(np.ones(len(confusions.clips))).items():
        result[kind]["classes"] = found.classes
    return result


def _thirds(truth: Truth) -> sizes.Thirds | None:
    areas = [
        np.count_nonzero(mask)
        for video in truth.videos
        for frame in truth.annotated(video)
        for mask in truth.actors(video, frame)
    ]
    return sizes.thirds(areas) if areas else None


def _parts(
    truth: Truth, video: str, frame: int, thirds: sizes.Thirds | None, non_boundary: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The frame's label map, without its boundaries, and what it is for each size of actor."""
    labels = truth.labels(video, frame)
    yield ALL, labels
    if non_boundary:
        band = confusion.boundary_band(labels, width=non_boundary)
        yield NON_BOUNDARY, np.where(band, np.uint8(IGNORE), labels)
    if thirds is None:
        return
    masks = truth.actors(video, frame)
    found = thirds.of(np.array([np.count_nonzero(mask) for mask in masks]))
    for position, size in enumerate(sizes.SIZES):
        yield size, sizes.only(labels, masks, found, position)


def _matrices(
    truth: np.ndarray, maps: Mapping[str, np.ndarray], labels: LabelSpace, *, where: str
) -> Iterator[tuple[str, np.ndarray]]:
    classes = {"joint": labels.ids, "actor": len(labels.actors), "action": labels.stride}
    for kind, predicted in maps.items():
        try:
            matrix = confusion.confusion(_part(truth, kind, labels), predicted, classes=classes[kind])
        except ValueError as error:
            raise ValueError(f"{where}, {kind}: {error}") from error
        if kind == "joint":
            labels.require_known(np.flatnonzero(matrix.any(1)), where=f"{where}, truth")
            labels.require_known(np.flatnonzero(matrix.any(0)), where=f"{where}, prediction")
        yield kind, matrix


def _part(joint: np.ndarray, kind: str, labels: LabelSpace) -> np.ndarray:
    """The actor's or the action's ids of joint ones."""
    if kind == "joint":
        return joint
    part = joint // labels.stride if kind == "actor" else joint % labels.stride
    return np.where(joint == IGNORE, joint, part)


def _append(
    clips: dict[str, dict[str, list[np.ndarray]]], found: Mapping[str, Mapping[str, np.ndarray]], video: str
) -> None:
    for part, kinds in found.items():
        known = clips.setdefault(part, {})
        if known and known.keys() != kinds.keys():
            raise ValueError(f"{video}: maps of {', '.join(kinds)}; the clips before have {', '.join(known)}")
        for kind, matrix in kinds.items():
            known.setdefault(kind, []).append(matrix)
