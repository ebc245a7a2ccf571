"""Changes of colour that a training sees: no part of a frame moves."""

import cv2
import numpy as np


def jitter(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and colour of a whole window, the same in every frame: (T, H, W, 3) uint8."""
    gain = random.uniform(0.8, 1.25) * random.uniform(0.75, 1.25, 3)
    shift = random.uniform(-20, 20) + random.uniform(-12, 12, 3)
    if random.random() < 0.2:
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
        frames = np.stack([cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) for frame in grey])
    table = np.clip(np.arange(256)[:, None] * gain + shift, 0, 255).astype(np.uint8)  # (256, 3)
    # One row of pixels a frame: OpenCV looks colours up in pictures, not in stacks of them.
    rows = np.ascontiguousarray(frames).reshape(len(frames), -1, 3)
    return cv2.LUT(rows, table[None]).reshape(frames.shape)
