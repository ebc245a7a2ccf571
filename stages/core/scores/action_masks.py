"""Actor maps and action masks on disk: the truth in data/index, and anybody's ``<video>.arrow`` of
``schemas.MULTI_LABEL_PREDICTIONS``. Frames are read one after the other; none stays in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.core import schemas
from stages.core.datasets.dataset import read_description
from stages.core.datasets.labels import LabelSpace
from stages.core.packs import masks as packed_masks
from stages.core.scores import sizes
from stages.core.scores.label_sets import LabelSets

BATCH = 16
"""Rows of data/index in memory at a time."""
CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Truth:
    """The annotated frames of split ``test`` in data/index at ``index``."""

    index: Path
    label_space: LabelSpace

    def clips(self) -> Iterator[tuple[str, Iterator[tuple[int, LabelSets]]]]:
        """Video by video, (frame, labels) in the order of the table."""
        for video, rows in groupby(self._rows(), key=lambda row: row["video"]):
            yield video, ((row["frame"], self._sets(row)) for row in rows)

    def _rows(self) -> Iterator[dict[str, Any]]:
        with pq.ParquetFile(self.index / "frames.parquet", memory_map=True) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.filter(pc.equal(batch["split"], "test")).to_pylist()

    def _sets(self, row: dict[str, Any]) -> LabelSets:
        return _label_sets(row["labels"], row["actions"], where=f"truth of {row['video']}, frame {row['frame'] + 1}")


def open_truth(index: Path) -> Truth:
    """The truth in data/index. Raises ``ValueError`` where its actors do one thing each, or nothing is annotated."""
    space = read_description(index).label_space
    if not space.multi_label:
        raise ValueError(f"{index}: an actor does one thing in data set `{space.key}`: score it by `segmentation`")
    if not pq.read_schema(index / "frames.parquet").equals(schemas.FRAMES):
        raise ValueError(f"{index / 'frames.parquet'}: not the table expected here; run `dvc repro` to make it again")
    splits = pq.read_table(index / "frames.parquet", columns=["split"])["split"]
    if not pc.any(pc.equal(splits, "test")).as_py():
        raise ValueError(f"{index} holds no annotated frame of split `test`")
    return Truth(index, space)


class Predictions:
    """A folder of ``<video>.arrow``, or one that holds it as ``clips``; videos are asked for one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "clips" if (folder / "clips").is_dir() else folder
        if not next(self._folder.glob("*.arrow"), None):
            raise ValueError(f"{self._folder} holds no <video>.arrow of actor maps and action masks")
        self._video: str | None = None
        self._pack: schemas.Pack | None = None
        self._rows: dict[int, int] = {}

    def sets(self, video: str, frame: int) -> LabelSets | None:
        """The labels of one frame; None where it was not predicted. Raises ``ValueError`` for what can't be read."""
        if video != self._video:
            self._open(video)
        if self._pack is None or frame not in self._rows:
            return None
        columns = {name: self._pack.column(self._rows[frame], name)[0].as_py() for name in ("actor", "actions")}
        return _label_sets(columns["actor"], columns["actions"], where="prediction")

    def _open(self, video: str) -> None:
        path = self._folder / f"{video}.arrow"
        self._video, self._rows = video, {}
        self._pack = schemas.Pack(path) if path.exists() else None
        if self._pack is not None:
            self._rows = {self._pack.column(row, "frame")[0].as_py(): row for row in range(len(self._pack))}


class Owners:
    """Whose pixels are whose: the boxes of the test frames' instances, and their sizes."""

    def __init__(self, index: Path) -> None:
        splits = pq.read_table(index / "frames.parquet", columns=["video", "split"])
        test = pc.unique(splits.filter(pc.equal(splits["split"], "test"))["video"])
        table = pq.read_table(index / "instances.parquet", columns=["video", "frame", *CORNERS])
        table = table.filter(pc.is_in(table["video"], test))
        self._videos = {video: code for code, video in enumerate(test.to_pylist())}
        codes = pc.index_in(table["video"], test).to_numpy().astype(np.int64)
        corners = np.stack([table[corner].to_numpy() for corner in CORNERS], axis=1).astype(np.float64)
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        keys = _key(codes, table["frame"].to_numpy())
        order = np.lexsort((-areas, keys))  # of a frame, the largest first
        self._keys, self._corners = keys[order], np.rint(corners[order]).astype(np.int64).clip(min=0)
        self.thirds = sizes.thirds(areas) if len(areas) else None
        self._owners = np.zeros(0, np.int64) if self.thirds is None else 1 + self.thirds.of(areas[order])

    def map(self, video: str, frame: int, shape: Sequence[int]) -> np.ndarray:
        """(H, W) uint8, 0 or 1 + the size of the instance whose box it is in; the smallest lies on top."""
        owners = np.zeros(tuple(shape), np.uint8)
        key = _key(self._videos[video], frame)
        for at in range(*np.searchsorted(self._keys, [key, key + 1])):
            x1, y1, x2, y2 = self._corners[at]
            owners[y1:y2, x1:x2] = self._owners[at]
        return owners


def _key(video: Any, frame: Any) -> Any:
    """One number for a frame of the ``video``-th clip."""
    return (video << 32) + frame


def _label_sets(actors: bytes, actions: list[dict[str, Any]] | None, *, where: str) -> LabelSets:
    if actors is None or actions is None:
        raise ValueError(
            f"{where}: no actor map or no list of actions; a frame in which nothing is done has an empty one"
        )
    masks = {row["action"]: row["mask"] for row in actions}
    if len(masks) < len(actions) or None in masks or None in masks.values():
        raise ValueError(f"{where}: two masks of one action, or one without mask; merge them")
    return LabelSets(packed_masks.decode(actors), masks)
