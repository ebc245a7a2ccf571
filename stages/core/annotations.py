"""One clip's annotations as table rows: the item that the index stage computes.

Reads the .mat and .h5 files of one clip; writes one Arrow file with the rows of the tables frames and instances, and
what was left out and why.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from stages.core import a2d, tables


def index_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Annotations of clip ``argument["video"]`` with ``argument["frames"]`` frames, below ``argument["folder"]``.

    A frame whose annotation can't be used is left out with its reason; the clip stays.
    """
    del parameters
    folder, video = Path(argument["folder"]), argument["video"]
    frames: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    bad: dict[str, str] = {}
    for frame in a2d.annotated_frames(folder, video):
        name = f"{video}/{frame + 1:05d}"
        if frame >= argument["frames"]:
            bad[name] = f"annotation of frame {frame + 1}, past the end of the clip ({argument['frames']} frames)"
            continue
        try:
            annotation = a2d.read_annotation(folder, video, frame)
        except ValueError as error:
            bad[name] = str(error)
            continue
        frames.append(
            {
                "video": video,
                "frame": frame,
                "split": argument["split"],
                "labels": tables.encode_png(annotation.labels),
            }
        )
        instances += _instance_rows(video, frame, annotation)
    batches = {
        "frames": tables.rows_to_table(frames, tables.FRAMES),
        "instances": tables.rows_to_table(instances, tables.INSTANCES),
    }
    schema = pa.schema([(name, pa.binary()) for name in batches], metadata={"quarantine": json.dumps(bad)})
    row = [pa.array([_table_bytes(table)]) for table in batches.values()]
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(row, schema=schema))


def read_clip(path: Path) -> tuple[pa.Table, pa.Table, dict[str, str]]:
    """What ``index_clip`` wrote: frames, instances, and frame -> reason of what was left out."""
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        batch = reader.get_batch(0)
        frames, instances = (pa.ipc.open_file(batch.column(i)[0].as_buffer()).read_all() for i in (0, 1))
        return frames, instances, json.loads(reader.schema.metadata[b"quarantine"])


def _instance_rows(video: str, frame: int, annotation: a2d.Annotation) -> list[dict[str, Any]]:
    height, width = annotation.labels.shape
    rows = []
    for position in range(len(annotation.instance_labels)):
        rle = coco.encode(np.asfortranarray(annotation.masks[position], dtype=np.uint8))
        x1, y1, x2, y2 = (float(value) for value in annotation.boxes[position])
        rows.append(
            {
                "video": video, "frame": frame, "instance": int(annotation.instances[position]),
                "label": int(annotation.instance_labels[position]), "x1": x1, "y1": y1, "x2": x2, "y2": y2,
                "height": height, "width": width, "mask": rle["counts"],
            }
        )  # fmt: skip
    return rows


def _table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()
