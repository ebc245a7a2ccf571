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

from stages.core.flow.backends import BACKENDS, at_height, open_backend
from stages.core.items import BadItem
from stages.core.tables import FLOW_PACK, Pack, write_pack
from stages.core.video import Clip

DIRECTIONS = ("forward", "backward")
AT_ONCE = 8
"""Pairs that an estimator gets at a time: enough for a GPU, little memory for a clip of any length."""


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

    ``argument["weights"]`` is the folder of a network's weights, ``argument["digest"]`` theirs. ``parameters``:
    backend, direction, preset (of DIS), height (that frames are resized to for the estimate; None: as they are) and
    quantum (pixels; values are rounded to its multiples).
    """
    clip = Clip(Path(argument["path"]))
    if len(clip) < 2:
        raise BadItem("one frame only: no motion to estimate")
    weights = argument.get("weights")
    estimator = open_backend(
        parameters["backend"],
        weights=Path(weights) if weights else None,
        digest=argument.get("digest", ""),
        preset=parameters["preset"],
    )
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
            raise BadItem(f"{parameters['backend']} gave flow that is not finite after frame {chunk[0][0] + 1}")
        whole = np.clip(np.rint(flows / parameters["quantum"]), limit.min, limit.max).astype(np.int16)
        found |= zip(chunk, whole.reshape(len(chunk), -1), strict=True)
    rows = [found[pair] for pair in pairs]
    columns = {"frame": pa.array(range(len(rows)), pa.int32()), "flow": pa.array(rows, pa.list_(pa.int16()))}
    metadata = {"height": str(clip.height), "width": str(clip.width), "quantum": repr(float(parameters["quantum"]))}
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
