"""Backends of optical flow that need no training, by their libraries."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages.core.optical_flow import dis
from stages.core.optical_flow.estimation import Estimator, pack_clip

NAMES = ("dis", "farneback", "tvl1")


def pack_flow(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """``estimation.pack_clip`` of ``argument["path"]`` by ``parameters["backend"]``; ``preset`` is that of DIS."""
    estimator = open_classical(parameters["backend"], preset=parameters["preset"])
    pack_clip(Path(argument["path"]), estimator, parameters, target)


def open_classical(name: str, *, preset: str = "medium") -> Estimator:
    """The estimator called ``name``, one of ``NAMES``; ``preset`` is that of DIS."""
    of_pair: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "dis": partial(dis.estimate, preset=preset),
        "farneback": farneback,
        "tvl1": tvl1,
    }
    estimate = of_pair[name]
    return lambda first, second: np.stack([estimate(one, two) for one, two in zip(first, second, strict=True)])


def farneback(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Polynomial expansion (Farneback 2003) by OpenCV, five levels and windows of 15 pixels: (H, W, 2)."""
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (picture, other))
    flow = np.zeros((*first.shape, 2), np.float32)
    return np.asarray(cv2.calcOpticalFlowFarneback(first, second, flow, 0.5, 5, 15, 3, 5, 1.2, 0))


def tvl1(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Total variation and L1 (Zach et al. 2007) by scikit-image, as it sets it up: (H, W, 2)."""
    from skimage.registration import optical_flow_tvl1  # half a second that the other backends need not wait for

    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255 for image in (picture, other))
    rows, columns = optical_flow_tvl1(first, second, dtype=np.float32)
    return np.stack([columns, rows], axis=-1)
