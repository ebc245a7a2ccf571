"""Estimating the optical flow of one clip, whatever the backend, and packing it.

An estimator takes N pairs of frames, (N, H, W, 3) uint8 RGB twice, and gives the flow from the first to the second of
each, (N, H, W, 2) float32 in pixels: u to the right, v down. ``forward`` at frame t leads to t + 1; the last frame has
no next one and carries the flow of the frame before it (Dang et al. 2018, section 3.2, after Jain et al. 2017, who
leave open whether its sign is kept: here it is, so that the motion does not turn round).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from stages.core.items import BadItem
from stages.core.packs.frames import Clip
from stages.core.schemas import FLOW_PACK, write_pack

Estimator = Callable[[np.ndarray, np.ndarray], np.ndarray]

DIRECTIONS = ("forward", "backward")
AT_ONCE = 8
"""Pairs that an estimator gets at a time: enough for a GPU, little memory for a clip of any length."""


def pack_clip(path: Path, estimator: Estimator, parameters: Mapping[str, Any], target: Path) -> None:
    """Flow of every frame of the packed clip at ``path``, packed into one Arrow file at ``target``.

    ``parameters``: direction, height (that frames are resized to for the estimate; None: as they are) and quantum
    (pixels; values are rounded to its multiples). Raises ``BadItem`` for a clip of one frame, and for flow that is not
    finite.
    """
    clip = Clip(path)
    if len(clip) < 2:
        raise BadItem("one frame only: no motion to estimate")
    estimator = at_height(estimator, parameters["height"])
    pairs = [_pair(number, len(clip), parameters["direction"]) for number in range(len(clip))]
    limit = np.iinfo(np.int16)
    found: dict[tuple[int, int], np.ndarray] = {}  # the clip's end repeats a pair
    wanted = sorted(set(pairs))
    for start in range(0, len(wanted), AT_ONCE):
        chunk = wanted[start : start + AT_ONCE]
        first, second = (np.stack([clip.frame(pair[side]) for pair in chunk]) for side in (0, 1))
        flows = estimator(first, second)
        if not np.isfinite(flows).all():
            raise BadItem(f"flow that is not finite near frame {chunk[0][0] + 1}")
        whole = np.clip(np.rint(flows / parameters["quantum"]), limit.min, limit.max).astype(np.int16)
        found |= zip(chunk, whole.reshape(len(chunk), -1), strict=True)
    rows = [found[pair] for pair in pairs]
    columns = {"frame": pa.array(range(len(rows)), pa.int32()), "flow": pa.array(rows, pa.list_(pa.int16()))}
    metadata = {"height": str(clip.height), "width": str(clip.width), "quantum": repr(float(parameters["quantum"]))}
    write_pack(target, columns, FLOW_PACK, **metadata)


def at_height(estimator: Estimator, height: int | None) -> Estimator:
    """``estimator`` on frames resized to ``height``; its flow is resized back, its vectors with it (None: as it is)."""
    if height is None:
        return estimator

    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        old_height, old_width = first.shape[1:3]
        width = max(1, round(old_width * height / old_height))
        smooth = cv2.INTER_AREA if height < old_height else cv2.INTER_LINEAR

        def resized(frames: np.ndarray) -> np.ndarray:
            return np.stack([cv2.resize(frame, (width, height), interpolation=smooth) for frame in frames])

        scale = np.array((old_width / width, old_height / height), np.float32)
        found = estimator(resized(first), resized(second))
        return np.stack([cv2.resize(field, (old_width, old_height)) for field in found]) * scale

    return estimate


def _pair(number: int, count: int, direction: str) -> tuple[int, int]:
    """Frames between which the flow at ``number`` is estimated; at the clip's end that of the frame before it."""
    if direction == "forward":
        start = min(number, count - 2)
        return start, start + 1
    start = max(number, 1)
    return start, start - 1
