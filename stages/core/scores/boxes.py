"""Boxes on disk: the instances of data/index, and anybody's detections as ``schemas.DETECTIONS``.

A prediction is one parquet file or a folder of them (or one that holds it as ``clips``). A frame without a row has no
detection; a video without one must still be known to have been looked at: by an empty ``<video>.parquet``, or by the
file's schema, whose metadata ``videos`` may name all of them, one a line.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.core import schemas
from stages.core.datasets.dataset import read_description
from stages.core.datasets.labels import LabelSpace
from stages.core.packs import masks
from stages.core.scores.average_precision import areas, inclusive, rounded

Frame = tuple[str, int]
"""Video and number, from 0."""
CORNERS = ("x1", "y1", "x2", "y2")
LOOKED_AT = b"videos"
"""Metadata of a table of detections."""


@dataclass(frozen=True)
class Instances:
    """Ground truth of one frame: inclusive whole boxes (G, 4), actors (G,), and the actions of each."""

    boxes: np.ndarray
    actors: np.ndarray
    actions: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Truth:
    """The test frames and their instances; a frame without instances is one too."""

    label_space: LabelSpace
    frames: Mapping[Frame, Instances]
    shapes: Mapping[Frame, tuple[int, int]]  # height and width

    @property
    def videos(self) -> list[str]:
        """Clips with a test frame, in order."""
        return list(dict.fromkeys(video for video, _ in self.frames))

    @property
    def areas(self) -> np.ndarray:
        """(instances,) pixels of every box."""
        return np.concatenate([areas(instances.boxes) for instances in self.frames.values()])


@dataclass(frozen=True)
class Detections:
    """Detections of one frame: inclusive boxes (D, 4), scores of actors (D, A) and actions (D, K), background first."""

    boxes: np.ndarray
    actors: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What a method found, and the videos it looked at."""

    frames: Mapping[Frame, Detections]
    videos: frozenset[str]


def read_truth(index: Path) -> Truth:
    """The instances of split ``test`` in data/index.

    Raises ``ValueError`` where there is no test frame, or an instance's actor or action is not told.
    """
    labels = read_description(index).label_space
    if labels.multi_label:
        raise ValueError("an actor does several things at once in this data set: score it by `multi-label`")
    frames = schemas.read_parquet(index / "frames.parquet", schemas.FRAMES)
    rows = frames.filter(pc.equal(frames["split"], "test")).select(["video", "frame", "labels"]).to_pylist()
    if not rows:
        raise ValueError(f"{index} holds no annotated frame of split `test`")
    shapes = {(row["video"], row["frame"]): masks.shape(row["labels"]) for row in rows}
    found: dict[Frame, list[dict[str, Any]]] = {frame: [] for frame in shapes}
    instances = schemas.read_parquet(index / "instances.parquet", schemas.INSTANCES)
    for row in instances.select(["video", "frame", "actor", "actions", *CORNERS]).to_pylist():
        if (row["video"], row["frame"]) in found:
            found[row["video"], row["frame"]].append(row)
    return Truth(labels, {frame: _instances(frame, found[frame], shapes[frame], labels) for frame in found}, shapes)


def read_prediction(path: Path, truth: Truth) -> Prediction:
    """The detections at ``path``.

    Raises ``ValueError`` for a file of other columns, scores of another length than the label space has classes,
    scores or boxes that are no numbers, negative scores, boxes inside out, and for a video or frame that is not in
    ``truth`` or has another resolution there.
    """
    files = _files(path)
    parts = [_read(file) for file in files]
    table = pa.concat_tables(parts)
    videos = frozenset(pc.unique(table["video"]).to_pylist()) | {file.stem for file in files if path.is_dir()}
    videos |= {video for part in parts for video in looked_at(part)}
    known = set(truth.videos)
    if unknown := sorted(set(pc.unique(table["video"]).to_pylist()) - known):
        raise ValueError(f"{path}: detections of {_some(unknown)}, no test clip of the truth; leave them out")
    found = {
        frame: _detections(rows, truth.label_space, truth.shapes.get(frame), where=f"{frame[0]}, frame {frame[1] + 1}")
        for frame, rows in _by_frame(table)
    }
    return Prediction(found, videos & known)


def with_looked_at(table: pa.Table, videos: Sequence[str]) -> pa.Table:
    """Detections that name the ``videos`` that were looked at, also those in which nothing was found."""
    return table.replace_schema_metadata({LOOKED_AT: "\n".join(videos)})


def looked_at(table: pa.Table) -> list[str]:
    """The videos that a table of detections names so; none where it names none."""
    return (table.schema.metadata or {}).get(LOOKED_AT, b"").decode().splitlines()


def _instances(
    frame: Frame, rows: Sequence[Mapping[str, Any]], shape: tuple[int, int], labels: LabelSpace
) -> Instances:
    where = f"{frame[0]}, frame {frame[1] + 1}: an instance of the truth"
    for row in rows:
        if not 0 < row["actor"] < len(labels.actors) or not row["actions"]:
            raise ValueError(f"{where} has no actor or no action: average precision needs both of every instance")
        if not all(0 < action < len(labels.actions) for action in row["actions"]):
            raise ValueError(f"{where} does {row['actions']}; actions are 1 to {len(labels.actions) - 1}")
    boxes = np.array([[row[corner] for corner in CORNERS] for row in rows], np.float64).reshape(-1, 4)
    _check_boxes(boxes, where=where)
    return Instances(
        boxes=rounded(inclusive(boxes), height=shape[0], width=shape[1]),
        actors=np.array([row["actor"] for row in rows], np.int64),
        actions=[row["actions"] for row in rows],
    )


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"{path} not found; give a parquet file of detections, or a folder of them")
    if path.is_file():
        return [path]
    folder = path / "clips" if (path / "clips").is_dir() else path
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ValueError(f"{folder} holds no <video>.parquet of detections")
    return files


def _read(path: Path) -> pa.Table:
    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet file: {error}") from error
    wrong = [
        f"{field.name} ({field.type})"
        for field in schemas.DETECTIONS
        if field.name not in schema.names or schema.field(field.name).type != field.type
    ]
    if wrong:
        raise ValueError(f"{path}: not a table of detections; missing, or of another type: {', '.join(wrong)}")
    # Masks count for nothing here and are most of the bytes.
    table = pq.read_table(path, columns=[name for name in schemas.DETECTIONS.names if not name.endswith("mask")])
    if empty := [name for name in ("video", "frame", "actor_scores", "action_scores") if table[name].null_count]:
        raise ValueError(f"{path}: rows without {', '.join(empty)}; every detection needs them")
    return table


def _by_frame(table: pa.Table) -> Iterator[tuple[Frame, pa.Table]]:
    """The rows of each frame, in the order they have in the table."""
    videos = table["video"].combine_chunks().dictionary_encode()
    numbers = table["frame"].to_numpy()
    order = np.lexsort((numbers, videos.indices.to_numpy()))
    ordered = table.take(pa.array(order)).combine_chunks()
    key = np.stack([videos.indices.to_numpy()[order], numbers[order]], axis=1)
    starts = np.flatnonzero(np.any(np.diff(key, axis=0, prepend=-1), axis=1))
    for start, end in pairwise([*starts, len(key)]):
        video, number = key[start]
        yield (videos.dictionary[int(video)].as_py(), int(number)), ordered.slice(start, end - start)


def _detections(rows: pa.Table, labels: LabelSpace, shape: tuple[int, int] | None, *, where: str) -> Detections:
    if shape is None:
        raise ValueError(f"{where}: detections of a frame that the truth doesn't have; frames count from 0 in tables")
    for column, expected in (("height", shape[0]), ("width", shape[1])):
        if other := set(rows[column].to_pylist()) - {expected, None}:
            raise ValueError(f"{where}: boxes for a {column} of {other.pop()}, the truth has {expected}; scale them")
    boxes = np.stack([rows[corner].to_numpy() for corner in CORNERS], axis=1).astype(np.float64)
    _check_boxes(boxes, where=where)
    return Detections(
        boxes=inclusive(boxes),
        actors=_scores(rows["actor_scores"], len(labels.actors), where=f"{where}, actor_scores"),
        actions=_scores(rows["action_scores"], len(labels.actions), where=f"{where}, action_scores"),
    )


def _scores(column: pa.ChunkedArray, classes: int, *, where: str) -> np.ndarray:
    lengths = set(pc.list_value_length(column).to_pylist())
    if other := lengths - {classes}:
        raise ValueError(f"{where}: {other.pop()} scores where there are {classes} classes, background first")
    scores = pc.list_flatten(column).to_numpy().reshape(-1, classes).astype(np.float64)
    if not np.all(np.isfinite(scores)) or scores.min() < 0:
        raise ValueError(f"{where}: scores must be numbers from 0 on (probabilities), found NaN, infinite or negative")
    return scores


def _check_boxes(boxes: np.ndarray, *, where: str) -> None:
    if not np.all(np.isfinite(boxes)):
        raise ValueError(f"{where}: a box is NaN or infinite")
    if np.any(boxes[:, 2:] < boxes[:, :2]):
        raise ValueError(f"{where}: a box is inside out; x1 <= x2 and y1 <= y2, in pixels")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
