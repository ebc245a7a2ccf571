"""Features of a fixed front-end at the annotated frames of a clip, as stage `features` packs them.

They are in half precision: 280 GB for the whole of A2D at the published size. Axes: C channels, h, w features.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.core.schemas import FEATURE_PACK, Pack, write_pack


class ClipFeatures:
    """Features of one clip, read frame by frame."""

    def __init__(self, path: Path) -> None:
        self._pack = Pack(path)
        self._rows = {self._pack.column(row, "frame")[0].as_py(): row for row in range(len(self._pack))}
        self._shape = tuple(int(length) for length in self._pack.metadata["shape"].split())

    def frame(self, number: int) -> np.ndarray:
        """(C, h, w) float32 at frame ``number``, one of those that were annotated. Raises ``KeyError`` for others."""
        values = self._pack.column(self._rows[number], "features").flatten()
        return values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(self._shape)


def write_features(path: Path, frames: dict[int, np.ndarray]) -> None:
    """Pack (C, h, w) arrays of one shape by frame number."""
    arrays = list(frames.values())
    columns = {
        "frame": pa.array(list(frames), pa.int32()),
        "features": pa.array([array.astype(np.float16).ravel() for array in arrays], pa.list_(pa.float16())),
    }
    write_pack(path, columns, FEATURE_PACK, shape=" ".join(map(str, arrays[0].shape)))
