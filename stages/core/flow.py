"""Optical flow of one clip: estimating it, packing it, reading it back, and the encodings that methods take.

Flow is (H, W, 2) float32 in pixels of the stored frame: u to the right, v down. ``forward`` at frame t leads to t + 1;
the last frame has no next one and carries the flow of the frame before it (Dang et al. 2018, section 3.2, after Jain et
al. 2017, who leave open whether its sign is kept: here it is, so that the motion does not turn round).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from stages.core.items import BadItem
from stages.core.tables import FLOW_PACK, Pack, write_pack
from stages.core.video import Clip

BACKENDS = ("dis",)
DIRECTIONS = ("forward", "backward")

_DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


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


def estimate(picture: np.ndarray, other: np.ndarray, *, preset: str = "medium") -> np.ndarray:
    """Flow (H, W, 2) float32 pixels that leads from ``picture`` to ``other``, both (H, W, 3) uint8 RGB.

    Dense inverse search (Kroeger et al. 2016); ``preset`` is ultrafast, fast or medium.
    """
    estimator = cv2.DISOpticalFlow.create(_DIS_PRESETS[preset])
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (picture, other))
    return np.asarray(estimator.calc(first, second, np.zeros((*first.shape, 2), np.float32)))


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


def colour_wheel(flow: np.ndarray) -> np.ndarray:
    """Flow as a picture: hue is direction, saturation is magnitude over the frame's own maximum.

    (H, W, 2) float32 -> (H, W, 3) uint8 RGB. The Middlebury coding (Baker et al. 2011) that Dang et al. 2018, section
    3.2, feed to the motion stream: 55 hues in six arcs, white at rest.
    """
    u, v = flow[..., 0], flow[..., 1]
    magnitude = np.sqrt(u * u + v * v)
    maximum = float(magnitude.max())
    radius = magnitude / (maximum if maximum > 0 else 1.0)
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(_WHEEL) - 1)  # (H, W) in [0, 54]
    low = np.floor(position).astype(np.int32)
    weight = (position - low)[..., None]
    hue = (1 - weight) * _WHEEL[low] + weight * _WHEEL[(low + 1) % len(_WHEEL)]  # (H, W, 3) in [0, 1]
    return np.floor(255 * (1 - radius[..., None] * (1 - hue))).astype(np.uint8)


def clipped(flow: np.ndarray) -> np.ndarray:
    """(H, W, 2) pixels, truncated to [-20, 20] and divided by 20, as I3D takes flow (Carreira and Zisserman 2017)."""
    return np.clip(flow, -20, 20) / 20


def with_magnitude(flow: np.ndarray) -> np.ndarray:
    """(H, W, 3): u, v and their magnitude, in pixels (Ji et al. 2018)."""
    return np.concatenate([flow, np.linalg.norm(flow, axis=-1, keepdims=True)], axis=-1)


def _pair(number: int, count: int, direction: str) -> tuple[int, int]:
    """Frames between which the flow at ``number`` is estimated; at the clip's end that of the frame before it."""
    if direction == "forward":
        start = min(number, count - 2)
        return start, start + 1
    start = max(number, 1)
    return start, start - 1


def _colour_wheel_table() -> np.ndarray:
    """(55, 3) RGB in [0, 1]: red, yellow, green, cyan, blue, magenta, with arcs of 15, 6, 4, 11, 13 and 6 hues."""
    arcs = [(15, 0, 1, +1), (6, 1, 0, -1), (4, 1, 2, +1), (11, 2, 1, -1), (13, 2, 0, +1), (6, 0, 2, -1)]
    wheel = np.zeros((sum(arc[0] for arc in arcs), 3), np.float32)
    start = 0
    for length, full, changing, sign in arcs:
        ramp = np.floor(255 * np.arange(length) / length) / 255
        wheel[start : start + length, full] = 1
        wheel[start : start + length, changing] = ramp if sign > 0 else 1 - ramp
        start += length
    return wheel


_WHEEL = _colour_wheel_table()
