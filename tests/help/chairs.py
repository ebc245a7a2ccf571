"""FlyingChairs' files for tests: .flo and .ppm as ``stages.core.optical_flow.files`` reads them."""

import struct
from pathlib import Path

import numpy as np

from stages.core.optical_flow.files import MAGIC, UNKNOWN, Pair


def write_flo(path: Path, flow: np.ndarray) -> None:
    """Write (H, W, 2) flow in pixels; a pixel with a component that is not finite becomes unknown."""
    height, width, _ = flow.shape
    known = np.isfinite(flow).all(-1, keepdims=True)
    values = np.where(known, flow, 10 * UNKNOWN).astype("<f4")
    path.write_bytes(struct.pack("<fii", MAGIC, width, height) + values.tobytes())


def write_ppm(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB."""
    height, width = picture.shape[:2]
    path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + picture.tobytes())


def write_pair(folder: Path, number: int, pair: Pair) -> None:
    """Write ``pair`` as number ``number`` (1 to 99999) of a folder in FlyingChairs' layout."""
    write_ppm(folder / f"{number:05d}_img1.ppm", pair.first)
    write_ppm(folder / f"{number:05d}_img2.ppm", pair.second)
    write_flo(folder / f"{number:05d}_flow.flo", pair.flow)
