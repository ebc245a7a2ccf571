"""Pictures for people: sheets of images in rows and columns."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

CELL_HEIGHT, TITLE_HEIGHT, GAP = 144, 22, 4


def write_sheet(path: Path, rows: Sequence[Sequence[np.ndarray]], *, titles: Sequence[str]) -> None:
    """Write images (H, W, 3) uint8 RGB in rows as one PNG, atomically; each column has a title above it.

    Images are scaled to one height; label maps stay crisp (nearest neighbour beside smooth frames).
    """
    scaled = [[_to_height(image, smooth=column == 0) for column, image in enumerate(row)] for row in rows]
    widths = [max((row[column].shape[1] for row in scaled), default=1) for column in range(len(titles))]
    height = TITLE_HEIGHT + len(scaled) * (CELL_HEIGHT + GAP)
    sheet = np.full((height, sum(widths) + GAP * (len(widths) - 1), 3), 255, np.uint8)
    left = 0
    for column, (title, width) in enumerate(zip(titles, widths, strict=True)):
        scale = min(0.45, 0.45 * width / max(1, cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]))
        cv2.putText(sheet, title, (left, 15), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
        for row, images in enumerate(scaled):
            top = TITLE_HEIGHT + row * (CELL_HEIGHT + GAP)
            image = images[column]
            sheet[top : top + CELL_HEIGHT, left : left + image.shape[1]] = image
        left += width + GAP
    encoded, buffer = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert encoded
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(buffer.tobytes())
    os.replace(part, path)


def _to_height(image: np.ndarray, *, smooth: bool) -> np.ndarray:
    width = max(1, round(image.shape[1] * CELL_HEIGHT / image.shape[0]))
    interpolation = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    return cv2.resize(image, (width, CELL_HEIGHT), interpolation=interpolation)
