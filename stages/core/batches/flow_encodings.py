"""Flow as methods take it: the last step before a batch, after flow was cropped, flipped and scaled with its frame."""

import cv2
import numpy as np


def colour_wheel(flow: np.ndarray) -> np.ndarray:
    """Flow as a picture: hue is direction, saturation is magnitude over the frame's own maximum.

    (H, W, 2) float32 -> (H, W, 3) uint8 RGB. The Middlebury coding (Baker et al. 2011) that Dang et al. 2018, section
    3.2, feed to the motion stream: 55 hues in six arcs, white at rest.
    """
    u, v = cv2.split(flow)
    magnitude = cv2.magnitude(u, v)
    maximum = float(magnitude.max())
    turns = np.arctan2(v, u) / (2 * np.pi)  # (H, W) in [-0.5, 0.5]; 0 is to the right
    steps = np.rint(turns * (len(_WHEEL) - 1)).astype(np.int32)
    steps[steps < 0] += len(_WHEEL) - 1
    away = np.take(_WHEEL, steps, axis=0)  # (H, W, 3): how far from white a colour is at the maximum
    away *= (magnitude / (maximum if maximum > 0 else 1.0))[..., None]
    return (255 - away).astype(np.uint8)


def clipped(flow: np.ndarray) -> np.ndarray:
    """(H, W, 2) pixels, truncated to [-20, 20] and divided by 20, as I3D takes flow (Carreira and Zisserman 2017)."""
    return np.clip(flow, -20, 20) / 20


def with_magnitude(flow: np.ndarray) -> np.ndarray:
    """(H, W, 3): u, v and their magnitude, in pixels (Ji et al. 2018)."""
    return np.concatenate([flow, np.linalg.norm(flow, axis=-1, keepdims=True)], axis=-1)


def _colour_wheel_table() -> np.ndarray:
    """(54 * 64 + 1, 3) float32: 255 minus the RGB of the wheel's hues, with 64 steps from each to the next.

    Red, yellow, green, cyan, blue, magenta, with arcs of 15, 6, 4, 11, 13 and 6 hues.
    """
    arcs = [(15, 0, 1, +1), (6, 1, 0, -1), (4, 1, 2, +1), (11, 2, 1, -1), (13, 2, 0, +1), (6, 0, 2, -1)]
    wheel = np.zeros((sum(arc[0] for arc in arcs), 3))
    start = 0
    for length, full, changing, sign in arcs:
        ramp = np.floor(255 * np.arange(length) / length)
        wheel[start : start + length, full] = 255
        wheel[start : start + length, changing] = ramp if sign > 0 else 255 - ramp
        start += length
    hues = np.arange(len(wheel))
    steps = np.linspace(0, hues[-1], hues[-1] * 64 + 1)
    return np.stack([255 - np.interp(steps, hues, wheel[:, c]) for c in range(3)], axis=-1).astype(np.float32)


_WHEEL = _colour_wheel_table()
