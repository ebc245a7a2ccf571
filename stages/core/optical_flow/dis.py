"""Dense inverse search (Kroeger et al. 2016), OpenCV's: the classical backend that needs no training."""

import cv2
import numpy as np

_DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


def estimate(picture: np.ndarray, other: np.ndarray, *, preset: str = "medium") -> np.ndarray:
    """Flow (H, W, 2) float32 pixels that leads from ``picture`` to ``other``, both (H, W, 3) uint8 RGB.

    Dense inverse search (Kroeger et al. 2016); ``preset`` is ultrafast, fast or medium.
    """
    estimator = cv2.DISOpticalFlow.create(_DIS_PRESETS[preset])
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (picture, other))
    return np.asarray(estimator.calc(first, second, np.zeros((*first.shape, 2), np.float32)))
