"""The tables that stages hand on: every pyarrow schema, and how they are written and read.

Conventions: ``frame`` counts from 0; boxes are float, 0-based, half open; pictures are the bytes of a PNG or JPEG file;
``video`` is the id of the clip in the data set (it may begin with ``-``: never pass one as a bare word to a command).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CLIPS = pa.schema(
    [
        ("video", pa.string()),
        ("split", pa.string()),  # train or test
        ("label", pa.uint8()),  # the one video-level label of A2D's videoset.csv; 255 elsewhere
        ("height", pa.int32()),  # as the data set says; null where it doesn't
        ("width", pa.int32()),
        ("frames", pa.int32()),  # as the data set says (null: it doesn't); the frames stage counts what can be decoded
        ("annotated", pa.int32()),  # annotated frames that the data set promises
        ("path", pa.string()),  # of the clip, a video file or a folder of pictures, relative to the data set
        ("content", pa.string()),  # sha256 of the clip
    ]
)

ACTION_MASKS = pa.list_(pa.struct([("action", pa.uint8()), ("mask", pa.binary())]))
"""What is done at a pixel where several things can be done at once: counts of a COCO RLE by action."""

FRAMES = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int32()),
        ("split", pa.string()),
        ("labels", pa.binary()),  # PNG of uint8 (H, W): the label map, of joint ids; of actors in multi-label data
        ("actions", ACTION_MASKS),  # of multi-label data; else null
    ]
)

INSTANCES = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int32()),
        ("instance", pa.int32()),
        ("actor", pa.uint8()),  # 255 where nobody told
        ("actions", pa.list_(pa.uint8())),  # one, or any number in multi-label data; none where nobody told
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("x2", pa.float32()),
        ("y2", pa.float32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask", pa.binary()),  # counts of a COCO RLE
    ]
)

SENTENCES = pa.schema([("video", pa.string()), ("instance", pa.int32()), ("sentence", pa.string())])

DETECTIONS = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("x2", pa.float32()),
        ("y2", pa.float32()),
        ("score", pa.float32()),
        ("actor_scores", pa.list_(pa.float32())),  # (8,) in A2D, background first
        ("action_scores", pa.list_(pa.float32())),  # (10,) in A2D, background first
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask", pa.binary()),  # counts of a COCO RLE; null for a box without one
        ("soft_mask", pa.binary()),  # uint8 28 x 28, 255 is certain; null for a box without one
    ]
)
"""Regions and detections of a method; ``score`` says how sure it is that there is an actor."""

VIDEO_SCORES = pa.schema([("video", pa.string()), ("scores", pa.list_(pa.float32()))])
"""What is in a video as a whole: a score for each valid pair, in the order of ``LabelSpace.valid_ids[1:]``."""

QUARANTINE = pa.schema([("item", pa.string()), ("reason", pa.string())])

MANIFEST = pa.schema([("item", pa.string()), ("key", pa.string()), ("file", pa.string())])

FRAME_PACK = pa.schema([("frame", pa.int32()), ("image", pa.binary())])
"""One clip's frames: an encoded RGB picture a row (``decode_image``)."""

FLOW_PACK = pa.schema([("frame", pa.int32()), ("flow", pa.list_(pa.int16()))])
"""One clip's flow: (H, W, 2) whole multiples of the quantum in the metadata, row-major (``stages.core.packs.flow``)."""

FEATURE_PACK = pa.schema([("frame", pa.int32()), ("features", pa.list_(pa.float16()))])
"""One clip's features at some frames: (C, h, w) row-major, its shape in the metadata
(``stages.core.packs.features``)."""

PREDICTIONS = pa.schema(
    [
        ("frame", pa.int32()),
        ("joint", pa.binary()),  # PNG of uint8 (H, W): actor * 10 + action
        ("actor", pa.binary()),  # PNG of the actor head's own map
        ("action", pa.binary()),
    ]
)

MULTI_LABEL_PREDICTIONS = pa.schema(
    [
        ("frame", pa.int32()),
        ("actor", pa.binary()),  # PNG of uint8 (H, W)
        ("actions", ACTION_MASKS),
    ]
)

CONFUSION = pa.schema(
    [
        ("video", pa.string()),
        ("kind", pa.string()),
        ("truth", pa.uint8()),
        ("predicted", pa.uint8()),
        ("pixels", pa.int64()),
    ]
)
"""Non-zero cells of every clip's confusion matrices; ``kind`` is joint, actor or action (the heads' own maps)."""


def rows_to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as dictionaries to a table of exactly ``schema``."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write atomically; the same table gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, part, compression="zstd")
    os.replace(part, path)


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """Read and check against ``schema``. Raises ``ValueError`` where the file is of another layout."""
    table = pq.read_table(path)
    if not table.schema.equals(schema):
        raise ValueError(f"{path}: not the table expected here; run `dvc repro` to make it again")
    return table


def write_pack(path: Path, columns: Mapping[str, Sequence[Any] | pa.Array], schema: pa.Schema, **metadata: str) -> None:
    """One packed Arrow file (IPC, zstd) of one clip, with ``metadata`` in its schema. Not atomic: items.py moves it."""
    schema = schema.with_metadata({key: value for key, value in sorted(metadata.items())})
    batch = pa.record_batch([columns[name] for name in schema.names], schema=schema)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        # One row a batch, so that a reader can take single frames without reading the others.
        for row in range(batch.num_rows):
            writer.write_batch(batch.slice(row, 1))


class Pack:
    """A packed Arrow file, read frame by frame through a memory map."""

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.metadata = {key.decode(): value.decode() for key, value in (self._reader.schema.metadata or {}).items()}

    def __len__(self) -> int:
        return self._reader.num_record_batches

    def column(self, row: int, name: str) -> pa.Array:
        """Column ``name`` of row ``row``, an array of length one."""
        batch = self._reader.get_batch(row)
        return batch.column(batch.schema.get_field_index(name))


def strings(values: Iterable[str]) -> pa.Array:
    """An array of strings, also of none."""
    return pa.array(list(values), pa.string())
