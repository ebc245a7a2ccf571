"""One clip's annotations as table rows: the item that the index stage computes.

Reads the annotation files of one clip; writes one Arrow file with the rows of the tables frames and instances, and what
was left out and why.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from stages.core import schemas
from stages.core.datasets import layouts
from stages.core.datasets.release import Annotation, ClipRow
from stages.core.packs import masks


def index_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Annotations of the clip ``argument["row"]`` of the data set at ``argument["folder"]``, laid out as ``layout``.

    ``parameters`` are those of section `index`. A frame whose annotation can't be used is left out with its reason; the
    clip stays.
    """
    settings = layouts.Parameters.model_validate(parameters)
    reader = layouts.reader(argument["layout"], Path(argument["folder"]), settings)
    row: ClipRow = argument["row"]
    frames: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    bad: dict[str, str] = {}
    for frame, annotation in reader.annotations(row):
        if isinstance(annotation, str):
            bad[f"{row.video}/{frame + 1:05d}"] = annotation
            continue
        frames.append(_frame_row(row, frame, annotation, multi_label=reader.label_space.multi_label))
        instances += _instance_rows(row.video, frame, annotation)
    batches = {
        "frames": schemas.rows_to_table(frames, schemas.FRAMES),
        "instances": schemas.rows_to_table(instances, schemas.INSTANCES),
    }
    schema = pa.schema([(name, pa.binary()) for name in batches], metadata={"quarantine": json.dumps(bad)})
    columns = [pa.array([_table_bytes(table)]) for table in batches.values()]
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def read_clip(path: Path) -> tuple[pa.Table, pa.Table, dict[str, str]]:
    """What ``index_clip`` wrote: frames, instances, and frame -> reason of what was left out."""
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        batch = reader.get_batch(0)
        frames, instances = (pa.ipc.open_file(batch.column(i)[0].as_buffer()).read_all() for i in (0, 1))
        return frames, instances, json.loads(reader.schema.metadata[b"quarantine"])


def _frame_row(row: ClipRow, frame: int, annotation: Annotation, *, multi_label: bool) -> dict[str, Any]:
    actions = [{"action": action, "mask": _counts(mask)} for action, mask in annotation.action_masks.items()]
    return {
        "video": row.video,
        "frame": frame,
        "split": row.split,
        "labels": masks.encode(annotation.labels),
        "actions": actions if multi_label else None,
    }


def _instance_rows(video: str, frame: int, annotation: Annotation) -> list[dict[str, Any]]:
    height, width = annotation.labels.shape
    rows = []
    for position, mask in enumerate(annotation.masks):
        x1, y1, x2, y2 = (float(value) for value in annotation.boxes[position])
        rows.append(
            {
                "video": video, "frame": frame, "instance": int(annotation.instances[position]),
                "actor": int(annotation.actors[position]), "actions": list(annotation.actions[position]),
                "x1": x1, "y1": y1, "x2": x2, "y2": y2, "height": height, "width": width, "mask": _counts(mask),
            }
        )  # fmt: skip
    return rows


def _counts(mask: np.ndarray) -> bytes:
    """Counts of the COCO RLE of (H, W) bool."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def _table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()
