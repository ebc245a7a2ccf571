"""Per-pixel scores where an actor does several things at once (VidOR): of actors, of actions and of pairs.

SSA2D (Rana and Rawat 2021, section 4.3 and table 2) gives "the same evaluation metrics as used for the A2D dataset" and
no definition for several labels a pixel; its code holds no evaluation. The definition here: a pixel has one actor
(background is one) and a set of actions; its pairs are that actor with each of them. Background is the one action and
the one pair of a pixel without any. A class has TP pixels that carry it in truth and prediction, GT in the truth, Pred
in the prediction, pooled over all frames:

    global accuracy   sum TP / sum GT
    class accuracy    mean of TP / GT                  over the classes with ground truth
    mean IoU          mean of TP / (GT + Pred - TP)    over the same

Where every pixel has exactly one label these are A2D's scores (``confusion``). Pairs that can't occur, such as an
action of the background, are nobody's: they lose recall. Pixels whose actor nobody labelled count nowhere. Values are
percent. ``<kind>_frequent`` runs over the 20 classes that most annotated frames of the training split show, background
left out (the brackets of table 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from stages.core.datasets.labels import LabelSpace
from stages.core.scores import resampling, sizes
from stages.core.scores.action_masks import Owners, Predictions, Truth, open_truth
from stages.core.scores.confusion import FIGURES
from stages.core.scores.label_sets import OWNERS, count

KINDS = ("actor", "action", "joint")
FREQUENT = 20


@dataclass(frozen=True)
class Evidence:
    """Pixels of each class, clip by clip; ``classes`` are, by kind, those that its means run over."""

    clips: Sequence[str]
    pixels: sparse.csr_array  # (clips, 3 * OWNERS * C): label_sets.Counts.flat
    classes: Mapping[str, np.ndarray]  # kind -> positions below C
    owners: tuple[int, ...] = tuple(range(OWNERS))  # whose pixels count

    def pooled(self, weights: np.ndarray) -> np.ndarray:
        """(3, C) pixels right, in the truth and in the prediction."""
        return (weights @ self.pixels).reshape(3, OWNERS, -1)[:, self.owners].sum(1)

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``<kind>/<figure>`` in percent; NaN where no class of the kind has ground truth."""
        pooled = self.pooled(weights)
        found: resampling.Values = {}
        for kind, classes in self.classes.items():
            right, true, _ = pooled[:, classes]
            accuracy, iou = per_class(pooled[:, classes])
            with np.errstate(invalid="ignore"):
                overall = 100 * np.divide(right.sum(), true.sum())
            figures = (overall, _mean(accuracy), _mean(iou))
            found |= {f"{kind}/{figure}": float(value) for figure, value in zip(FIGURES, figures, strict=True)}
        return found

    def joined(self, other: Self) -> Self:
        """The clips of both."""
        pixels = sparse.csr_array(sparse.vstack([self.pixels, other.pixels]))
        return replace(self, clips=[*self.clips, *other.clips], pixels=pixels)

    def of_size(self, size: int) -> Self:
        """The same without the pixels of instances of other sizes."""
        return replace(self, owners=(0, 1 + size))


def per_class(pooled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and IoU, in percent, of pixels (3, C) as ``Evidence.pooled``; NaN without ground truth."""
    right, true, found = pooled
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * right / true, np.where(true > 0, 100 * right / (true + found - right), np.nan)


@dataclass(frozen=True)
class Comparison:
    """The evidence, and how many frames it covers."""

    evidence: Evidence
    scored: int
    annotated: int


def compare(
    truth: Truth, prediction: Predictions, owners: Owners, classes: Mapping[str, np.ndarray], *, count_missing: bool
) -> Comparison:
    """Compare frame by frame, one in memory at a time.

    Raises ``ValueError`` for an unknown id, another resolution, a mask that can't be read, and a frame without
    prediction, unless ``count_missing``: then it lowers the coverage and no score.
    """
    clips: dict[str, int] = {}
    cells: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    columns = scored = annotated = 0
    for video, frames in truth.clips():
        pixels: np.ndarray | None = None
        for frame, sets in frames:
            annotated += 1
            where = f"{video}, frame {frame + 1}"
            try:
                predicted = prediction.sets(video, frame)
                if predicted is None and not count_missing:
                    raise ValueError("no prediction; make it, or count it as missing (--count-missing)")
                if predicted is None:
                    continue
                owner = owners.map(video, frame, sets.actors.shape)
                found = count(sets, predicted, owner, truth.label_space).flat().ravel()
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            pixels = found if pixels is None else pixels + found
            scored += 1
        if pixels is not None:
            clip = clips.setdefault(video, len(clips))
            columns = len(pixels)
            at = np.flatnonzero(pixels)
            cells.append((pixels[at], np.full(len(at), clip), at))
    if not clips:
        raise ValueError("no annotated frame has a prediction: nothing can be scored")
    values, rows, at = (np.concatenate(part) for part in zip(*cells, strict=True))
    pooled = sparse.csr_array(sparse.coo_array((values, (rows, at)), shape=(len(clips), columns)))
    return Comparison(Evidence(list(clips), pooled, classes), scored, annotated)


def all_classes(labels: LabelSpace) -> dict[str, np.ndarray]:
    """Kind -> positions of its classes, background first."""
    actors, actions = len(labels.actors), len(labels.actions)
    return {
        "actor": np.arange(actors),
        "action": actors + np.arange(actions),
        "joint": actors + actions + np.array(labels.valid_ids),
    }


def class_names(labels: LabelSpace) -> list[str]:
    """Names of all classes, by position; "" where an id has no meaning."""
    ids = range(len(labels.actors) * labels.stride)
    pairs = [labels.name(label) if labels.valid[label] else "" for label in ids]
    return [*labels.actors, *labels.actions, *pairs]


def frequent_classes(index: Path, labels: LabelSpace) -> dict[str, np.ndarray]:
    """``<kind>_frequent`` -> positions of the ``FREQUENT`` classes in most annotated frames of split ``train``.

    Of two as frequent, the lower id; fewer where the split shows fewer. Background is none.
    """
    splits = pq.read_table(index / "frames.parquet", columns=["video", "split"])
    train = pc.unique(splits.filter(pc.equal(splits["split"], "train"))["video"])
    table = pq.read_table(index / "instances.parquet", columns=["video", "frame", "actor", "actions"])
    table = table.filter(pc.is_in(table["video"], train)).combine_chunks()
    video = pc.index_in(table["video"], train).to_numpy().astype(np.int64)
    frame = np.unique((video << 32) + table["frame"].to_numpy(), return_inverse=True)[1]
    actor = table["actor"].to_numpy().astype(np.int64)
    row = pc.list_parent_indices(table["actions"]).to_numpy()
    action = pc.list_flatten(table["actions"]).to_numpy().astype(np.int64)
    seen = {
        "actor": (frame, actor, np.arange(len(labels.actors))),
        "action": (frame[row], action, np.arange(len(labels.actions))),
        "joint": (frame[row], actor[row] * labels.stride + action, np.array(labels.valid_ids)),
    }
    return {
        f"{kind}_frequent": all_classes(labels)[kind][1:][_most_frequent(frames, ids, known[1:])]
        for kind, (frames, ids, known) in seen.items()
    }


def run(
    truth: Path,
    prediction: Path,
    *,
    against: Path | None = None,
    count_missing: bool = False,
    parameters: resampling.Parameters,
) -> dict[str, Any]:
    """Scores of the folder ``prediction`` on the test frames of data/index at ``truth``, in percent.

    Gives by kind (actor, action, joint, and each ``_frequent``) the three figures with intervals (and against the
    folder ``against``), how many classes with ground truth their means run over, and each class's accuracy and IoU; the
    same figures by size; the frames covered. Raises ``ValueError`` for what ``open_truth`` and ``compare`` refuse.
    """
    frames, owners = open_truth(truth), Owners(truth)
    labels = frames.label_space
    classes = all_classes(labels) | frequent_classes(truth, labels)
    compared = compare(frames, Predictions(prediction), owners, classes, count_missing=count_missing)
    other: Evidence | None = None
    if against is not None:
        other = compare(frames, Predictions(against), owners, classes, count_missing=count_missing).evidence
    evidence = compared.evidence
    result = _by_kind(resampling.summary(evidence, parameters, against=other))
    pooled = evidence.pooled(np.ones(len(evidence.clips)))
    names = class_names(labels)
    for kind, positions in classes.items():
        accuracy, iou = per_class(pooled[:, positions])
        rows = zip((names[position] for position in positions.tolist()), accuracy.tolist(), iou.tolist(), strict=True)
        found = {name: {"accuracy": a, "iou": i} for name, a, i in rows if not np.isnan(i)}
        result[kind] |= {"classes": len(found), "per_class": found}
    if owners.thirds is not None:
        result["by_size"] = {"thirds": [owners.thirds.low, owners.thirds.high]}
        for size, name in enumerate(sizes.SIZES):
            against_size = None if other is None else other.of_size(size)
            found_size = resampling.summary(evidence.of_size(size), parameters, against=against_size)
            result["by_size"][name] = _by_kind(found_size)
    result["coverage"] = {"scored": compared.scored, "of": compared.annotated, "clips": len(evidence.clips)}
    return result


def class_rows(scores: Mapping[str, Any], labels: LabelSpace) -> list[tuple[str, int, str, float, float]]:
    """(kind, id, name, accuracy, IoU) of every class with ground truth, of what ``run`` gives."""
    names, rows = class_names(labels), []
    for kind, positions in all_classes(labels).items():
        found = scores[kind]["per_class"]
        for position in positions.tolist():
            if one := found.get(names[position]):
                rows.append((kind, position - int(positions[0]), names[position], one["accuracy"], one["iou"]))
    return rows


def _by_kind(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``resampling.summary`` with a dictionary a kind."""
    result: dict[str, Any] = {}
    for name, value in flat.items():
        if name == "against":
            continue
        kind, _, figure = name.partition("/")
        result.setdefault(kind, {})[figure] = value
    for name, difference in flat.get("against", {}).items():
        kind, _, figure = name.partition("/")
        result[kind].setdefault("against", {})[figure] = difference
    return result


def _most_frequent(frames: np.ndarray, ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions in ``known`` of the ids that most frames show; (frame, id) may stand in several rows."""
    ceiling = max(ids.max(initial=0), known.max()) + 1
    counts = np.bincount(np.unique(frames * ceiling + ids) % ceiling, minlength=ceiling)[known]
    order = np.argsort(-counts, kind="stable")[:FREQUENT]
    return np.sort(order[counts[order] > 0])


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
