"""Painting of sprites and backgrounds under affine maps, and the part map that makes their flow exact.

Pixel centres have whole coordinates. Axis letters: T time steps, P parts, H rows, W columns.
"""

import cv2
import numpy as np

from stages.core.generator.figures import Figure, Part
from stages.core.generator.textures import TILE

SPRITE_DETAIL = 1.15
"""Sprite pixels per frame pixel: just enough that the bilinear warp does not blur."""


def paint_sprite(figure: Figure, part: Part, index: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Paint one part of ``figure`` at ``scale`` pixels a body length.

    Returns the sprite, (h, w, 4) uint8 premultiplied RGBA, and the (3, 3) map from its pixels to the part's own
    coordinates (body lengths about the joint).
    """
    outline = np.concatenate([polygon for polygon, _ in part.layers])
    fine = 3 if scale < 250 else 2
    margin = 1.5 / scale
    low = outline.min(axis=0) - margin
    columns, rows = (np.ceil((outline.max(axis=0) + margin - low) * scale)).astype(int) + 1
    dense = scale * fine
    canvas = np.zeros((rows * fine, columns * fine, 4), dtype=np.uint8)
    # Texels at the centres of the fine pixels; each part starts elsewhere in the tile.
    texel_x = ((np.arange(columns * fine) + 0.5) / dense + low[0]) * TILE
    texel_y = ((np.arange(rows * fine) + 0.5) / dense + low[1]) * TILE
    for polygon, paint_index in part.layers:
        paint = figure.paints[paint_index]
        corners = (polygon - low) * dense - 0.5
        left, top = np.floor(corners.min(axis=0)).astype(int)
        right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
        stencil = np.zeros((bottom - top, right - left), dtype=np.uint8)
        cv2.fillPoly(stencil, [np.round((corners - (left, top)) * 16).astype(np.int32)], 255, shift=4)
        ix = (texel_x[left:right] / paint.period + 13 * index).astype(np.int64) % TILE
        iy = (texel_y[top:bottom] / paint.period + 29 * index).astype(np.int64) % TILE
        # A pixel's four bytes as one number: gathered and copied up to three times faster.
        tile, target = paint.tile.view(np.uint32)[..., 0], canvas.view(np.uint32)[..., 0]
        np.copyto(target[top:bottom, left:right], tile[iy[:, None], ix[None, :]], where=stencil > 0)
    sprite = cv2.resize(canvas, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
    # Relief: darker towards the outline, so that overlapping limbs stay apart.
    reach = 2 * max(1, round(0.035 * scale)) + 1
    depth = cv2.blur(sprite[..., 3], (reach, reach), borderType=cv2.BORDER_CONSTANT)
    light = part.shade * (1.0 - figure.relief * (1.0 - depth.astype(np.float32) / 255.0))
    sprite[..., :3] = (sprite[..., :3] * light[..., None]).astype(np.uint8)
    to_part = np.array([[1 / scale, 0, low[0] + 0.5 / scale], [0, 1 / scale, low[1] + 0.5 / scale], [0, 0, 1]])
    return sprite, to_part


def regions_of_interest(shapes: np.ndarray, maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, P, 4) int boxes x0, y0, x1, y1 (half open, inside the frame) that each sprite can touch.

    ``shapes`` (P, 2) are rows and columns of the sprites, ``maps`` (T, P, 3, 3) lead from sprite to frame pixels.
    """
    rows, columns = shapes[:, 0].astype(float), shapes[:, 1].astype(float)
    zero = np.zeros_like(rows)
    ones = np.ones_like(rows)
    corners = np.stack(
        [np.stack([zero - 1, zero - 1, ones]), np.stack([columns, zero - 1, ones]),
         np.stack([zero - 1, rows, ones]), np.stack([columns, rows, ones])], axis=-1,
    ).transpose(1, 0, 2)  # (P, 3, 4)  # fmt: skip
    touched = (maps @ corners)[:, :, :2]  # (T, P, 2, 4)
    low = np.floor(touched.min(axis=-1)).astype(int)
    high = np.ceil(touched.max(axis=-1)).astype(int) + 1
    bounds = np.array([width, height])
    return np.concatenate([np.clip(low, 0, bounds), np.clip(high, 0, bounds)], axis=-1)


def paint_frames(
    background: np.ndarray, sprites: list[np.ndarray], maps: np.ndarray, *, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paint the sprites, back to front, over the moving background.

    ``background`` (h, w, 4) uint8 continues by reflection; ``maps`` (T, 1 + P, 3, 3) lead from background (first) and
    sprite pixels to frame pixels. Returns frames (T, H, W, 4) uint8 and parts (T, H, W) uint8: the index of the part
    that covers most of the pixel's centre, 0 for background.
    """
    steps = len(maps)
    frames = np.empty((steps, height, width, 4), dtype=np.uint8)
    parts = np.zeros((steps, height, width), dtype=np.uint8)
    shapes = np.array([sprite.shape[:2] for sprite in sprites]).reshape(-1, 2)
    boxes = regions_of_interest(shapes, maps[:, 1:], height, width)
    shifted = maps[:, 1:, :2].copy()
    shifted[..., 2] -= boxes[..., :2]
    places = boxes.tolist()
    for t in range(steps):
        frame, owner = frames[t], parts[t]
        cv2.warpAffine(
            background, maps[t, 0, :2], (width, height), dst=frame, flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        for index, (sprite, (x0, y0, x1, y1)) in enumerate(zip(sprites, places[t], strict=True), start=1):
            if x1 <= x0 or y1 <= y0:
                continue
            patch = cv2.warpAffine(sprite, shifted[t, index - 1], (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
            alpha = patch[..., 3]
            region = frame[y0:y1, x0:x1]
            under = np.multiply(region, (255 - alpha)[..., None], dtype=np.uint16)
            under += 128
            under >>= 8
            np.add(under, patch, out=region, casting="unsafe")
            np.copyto(owner[y0:y1, x0:x1], index, where=alpha > 127)
    return frames, parts
