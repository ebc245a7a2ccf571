"""Masks as they are stored: label maps as PNG, one lossless channel of eight bits, and single masks as COCO RLE.

Axes: H height, W width.
"""

import struct
from typing import Any

import cv2
import numpy as np

Rle = dict[str, Any]
"""A mask as pycocotools takes it: ``size`` (height, width) and ``counts``, bytes."""


def encode(labels: np.ndarray) -> bytes:
    """(H, W) uint8 to PNG bytes."""
    encoded, buffer = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    assert encoded
    return buffer.tobytes()


def decode(data: bytes) -> np.ndarray:
    """PNG bytes to (H, W) uint8. Raises ``ValueError`` for bytes that are no grey picture."""
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError("not a PNG of one uint8 channel")
    return labels


def shape(data: bytes) -> tuple[int, int]:
    """(height, width) of a PNG, from its header alone."""
    width, height = struct.unpack(">II", data[16:24])
    return height, width
