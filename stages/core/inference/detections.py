"""The detections of an evaluated run as one table, and their scores: what methods that find actors by boxes have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.core.schemas import DETECTIONS
from stages.core.scores import boxes, detection, resampling


def collect(predictions: Path, videos: Sequence[str]) -> pa.Table:
    """The detections in the packs of ``videos`` below ``predictions``, and which videos were looked at.

    Where the run's method detects nothing there is no row, and no video that was looked at.
    """
    tables, seen = [DETECTIONS.empty_table()], []
    for video in videos:
        path = predictions / "clips" / f"{video}.arrow"
        if not path.exists():
            continue  # in quarantine
        pack = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if "detections" in pack.schema.names:
            seen.append(video)
            tables.append(_of_clip(video, pack))
    return boxes.with_looked_at(pa.concat_tables(tables), seen)


def score(index: Path, found: Path, parameters: resampling.Parameters) -> dict[str, Any]:
    """``detection``: average precision of the detections at ``found`` on the test frames of data/index at ``index``.

    Nothing where it can't be had: somebody must have told actor and action of every instance.
    """
    try:
        boxes.read_truth(index)
    except ValueError as error:
        print(f"no scores of detections: {error}")
        return {}
    scores = detection.run(index, found, count_missing=True, parameters=parameters)
    return {"detection": {name: value for name, value in scores.items() if name not in ("per_class", "variant")}}


def _of_clip(video: str, pack: pa.Table) -> pa.Table:
    """The rows of a pack's frames."""
    listed = pack["detections"].combine_chunks()
    frames = pack["frame"].combine_chunks().take(pc.list_parent_indices(listed))
    found = pa.Table.from_struct_array(listed.flatten())
    columns = {"video": pa.array([video] * len(frames), pa.string()), "frame": frames}
    return pa.table([columns[name] if name in columns else found[name] for name in DETECTIONS.names], schema=DETECTIONS)
