"""The packed optical flow of one clip, read back frame by frame.

Flow is (H, W, 2) float32 in pixels of the stored frame: u to the right, v down; ``stages.core.optical_flow.estimation``
packs it. What reads flow depends on nothing that estimates it.
"""

from pathlib import Path

import numpy as np

from stages.core.schemas import Pack


class ClipFlow:
    """A clip's packed flow: random access by frame."""

    def __init__(self, path: Path) -> None:
        self._pack = Pack(path)
        self._shape = (int(self._pack.metadata["height"]), int(self._pack.metadata["width"]), 2)
        self._quantum = float(self._pack.metadata["quantum"])

    def __len__(self) -> int:
        return len(self._pack)

    def frame(self, number: int) -> np.ndarray:
        """(H, W, 2) float32 pixels at 0-based frame ``number``, clamped to the clip."""
        column = self._pack.column(min(max(number, 0), len(self) - 1), "flow")
        return column.values.to_numpy().reshape(self._shape).astype(np.float32) * self._quantum
