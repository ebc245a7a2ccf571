"""Segmentation scores of anybody's label maps (``stages.core.maps``), compared clip by clip."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stages.core import metrics
from stages.core.labels import A2D, IGNORE
from stages.core.maps import Prediction, Truth

CLASSES = {"joint": metrics.JOINT_IDS, "actor": len(A2D.actors), "action": len(A2D.actions)}
"""Kind of map -> number of ids."""
HEADS = ("actor", "action")


class Comparison:
    """Confusion matrices of the clips compared, and how many of the annotated frames they hold."""

    def __init__(self) -> None:
        self.videos: list[str] = []
        self.scored = self.annotated = 0
        self._clips: dict[str, list[np.ndarray]] = {}

    @property
    def matrices(self) -> dict[str, np.ndarray]:
        """Kind -> (clips, K, K) int64, truth in rows."""
        return {kind: np.stack(clips) for kind, clips in self._clips.items()}

    def add(self, video: str, matrices: Mapping[str, np.ndarray]) -> None:
        """One clip's matrices. Raises ``ValueError`` where it has other heads than the clips before it."""
        if self._clips and self._clips.keys() != matrices.keys():
            raise ValueError(f"{video}: maps of {', '.join(matrices)}; the clips before have {', '.join(self._clips)}")
        self.videos.append(video)
        for kind, matrix in matrices.items():
            self._clips.setdefault(kind, []).append(matrix)


def compare(truth: Truth, prediction: Prediction, *, non_boundary: int = 0, count_missing: bool = False) -> Comparison:
    """Compare ``prediction`` with ``truth``, one frame in memory at a time.

    ``non_boundary``: width in pixels of the band around label changes that is left out. Raises ``ValueError`` for an
    unknown id, a map of another resolution, and a frame without prediction, unless ``count_missing``: then it lowers
    the coverage and no score.
    """
    result = Comparison()
    for video in truth.videos:
        matrices: dict[str, np.ndarray] = {}
        for frame in truth.annotated(video):
            result.annotated += 1
            where = f"{video}, frame {frame + 1}"
            maps = prediction.maps(video, frame)
            if maps is None:
                if not count_missing:
                    raise ValueError(f"{where}: no prediction; make it, or count it as missing (--count-missing)")
                continue
            for kind, matrix in _matrices(truth.labels(video, frame), maps, non_boundary, where=where):
                matrices[kind] = matrices[kind] + matrix if kind in matrices else matrix
            result.scored += 1
        if matrices:
            result.add(video, matrices)
    if not result.videos:
        raise ValueError("no annotated frame has a prediction: nothing can be scored")
    return result


def summary(compared: Comparison, bootstrap: metrics.Parameters) -> dict[str, Any]:
    """Scores as marginals of the joint map (the papers' evaluator) and of each head's own map, with intervals."""
    matrices = compared.matrices
    result: dict[str, Any] = {}
    for kind, found in metrics.all_scores(matrices["joint"].sum(0), A2D).items():
        low, high = metrics.bootstrap(
            matrices["joint"], metrics.mean_iou(kind, A2D), resamples=bootstrap.resamples, seed=bootstrap.seed
        )
        result[kind] = found.summary() | {"mean_iou_low": low, "mean_iou_high": high, "classes": found.classes}
    for kind in HEADS:
        if kind in matrices:
            result[f"{kind}_head"] = metrics.scores(matrices[kind].sum(0)).summary()
    return result


def class_rows(compared: Comparison) -> list[tuple[str, int, str, float, float]]:
    """(kind, id, name, accuracy, IoU) of every class with ground truth, in percent."""
    rows = []
    for kind, found in metrics.all_scores(compared.matrices["joint"].sum(0), A2D).items():
        names = {"actor": A2D.actors, "action": A2D.actions}.get(kind)
        for label in np.flatnonzero(~np.isnan(found.iou)):
            name = A2D.name(int(label)) if names is None else names[label]
            rows.append((kind, int(label), name, float(found.accuracy[label]), float(found.iou[label])))
    return rows


def rounded(value: Any) -> Any:
    """Floats of a nested dictionary to four decimals: what is written is read by people too."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _matrices(
    truth: np.ndarray, maps: Mapping[str, np.ndarray], non_boundary: int, *, where: str
) -> Iterator[tuple[str, np.ndarray]]:
    if non_boundary:
        truth = np.where(metrics.boundary_band(truth, width=non_boundary), np.uint8(IGNORE), truth)
    for kind, predicted in maps.items():
        try:
            matrix = metrics.confusion(_part(truth, kind), predicted, classes=CLASSES[kind])
        except ValueError as error:
            raise ValueError(f"{where}, {kind}: {error}") from error
        if kind == "joint":
            seen = {"truth": matrix.any(1), "prediction": matrix.any(0)}
            for name, present in seen.items():
                if unknown := [int(label) for label in np.flatnonzero(present) if int(label) not in A2D.colours]:
                    raise ValueError(f"{where}: unknown ids {unknown} in the {name}; ids are actor * 10 + action")
        yield kind, matrix


def _part(joint: np.ndarray, kind: str) -> np.ndarray:
    """The actor's or the action's ids of joint ones."""
    if kind == "joint":
        return joint
    part = joint // 10 if kind == "actor" else joint % 10
    return np.where(joint == IGNORE, joint, part)
