"""Optical flow of one clip: estimating it, packing it, reading it back.

Flow is (H, W, 2) float32 in pixels of the stored frame: u to the right, v down. ``forward`` at frame t leads to t + 1;
the last frame has no next one and carries the flow of the frame before it (Dang et al. 2018, section 3.2, after Jain et
al. 2017, who leave open whether its sign is kept: here it is, so that the motion does not turn round).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.core.flow.dis import estimate
from stages.core.items import BadItem
from stages.core.tables import FLOW_PACK, Pack, write_pack
from stages.core.video import Clip

BACKENDS = ("dis",)
DIRECTIONS = ("forward", "backward")


def parse_recipe(recipe: str) -> tuple[str, str]:
    """``dis-forward`` -> (``dis``, ``forward``). Raises ``ValueError`` that names what there is."""
    backend, _, direction = recipe.partition("-")
    if backend not in BACKENDS or direction not in DIRECTIONS:
        raise ValueError(
            f"optical_flow.recipes: `{recipe}` is no recipe; write <backend>-<direction> with a backend of "
            f"{', '.join(BACKENDS)} and a direction of {', '.join(DIRECTIONS)}"
        )
    return backend, direction


def pack_flow(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Flow of every frame of the packed clip ``argument["path"]``, packed into one Arrow file at ``target``.

    ``parameters``: preset (of DIS), direction, quantum (pixels; values are rounded to its multiples).
    """
    clip = Clip(Path(argument["path"]))
    if len(clip) < 2:
        raise BadItem("one frame only: no motion to estimate")
    pictures = [clip.frame(number) for number in range(len(clip))]
    quantum = parameters["quantum"]
    limit = np.iinfo(np.int16)
    rows = []
    for number in range(len(pictures)):
        start, end = _pair(number, len(pictures), parameters["direction"])
        flow = estimate(pictures[start], pictures[end], preset=parameters["preset"])
        rows.append(np.clip(np.rint(flow / quantum), limit.min, limit.max).astype(np.int16).ravel())
    columns = {"frame": pa.array(range(len(rows)), pa.int32()), "flow": pa.array(rows, pa.list_(pa.int16()))}
    metadata = {"height": str(clip.height), "width": str(clip.width), "quantum": repr(float(quantum))}
    write_pack(target, columns, FLOW_PACK, **metadata)


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


def _pair(number: int, count: int, direction: str) -> tuple[int, int]:
    """Frames between which the flow at ``number`` is estimated; at the clip's end that of the frame before it."""
    if direction == "forward":
        start = min(number, count - 2)
        return start, start + 1
    start = max(number, 1)
    return start, start - 1
