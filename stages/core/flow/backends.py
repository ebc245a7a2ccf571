"""Estimators of optical flow, under one name each: classical ones by their libraries, FlowNets with trained weights.

An estimator takes N pairs of frames, (N, H, W, 3) uint8 RGB twice, and gives the flow from the first to the second of
each, (N, H, W, 2) float32 in pixels: u to the right, v down.
"""

import json
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from stages.core.flow import dis

Estimator = Callable[[np.ndarray, np.ndarray], np.ndarray]

NETWORKS = ("flownets", "flownetc")


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


CLASSICAL = {"dis": dis.estimate, "farneback": farneback, "tvl1": tvl1}
"""Name -> function of one pair, which needs no training."""
BACKENDS = (*CLASSICAL, *NETWORKS)


def open_backend(name: str, *, weights: Path | None = None, digest: str = "", preset: str = "medium") -> Estimator:
    """The estimator called ``name``.

    ``weights`` is the folder that `train_flow` wrote and ``digest`` that of its model, for a network; ``preset`` is
    that of `dis`. Raises ``ValueError`` for a name that does not exist and a network without weights.
    """
    if name in NETWORKS:
        if weights is None:
            raise ValueError(f"backend `{name}` needs weights: the folder data/train_flow/{name}")
        return _network(weights, digest)
    if name not in CLASSICAL:
        raise ValueError(f"no backend `{name}`; there are {', '.join(BACKENDS)}")
    estimate = partial(dis.estimate, preset=preset) if name == "dis" else CLASSICAL[name]
    return lambda first, second: np.stack([estimate(one, two) for one, two in zip(first, second, strict=True)])


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


@lru_cache(maxsize=1)
def _network(folder: Path, digest: str) -> Estimator:
    """A trained FlowNet; ``digest`` tells those that were at one path one after the other apart."""
    # torch is slow to import, and only networks need it
    import torch

    from models import flownet
    from models.base import choose_device

    del digest
    run = json.loads((folder / "run.json").read_text())
    network = flownet.build(flownet.configuration(run["network"], run["config"]))
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location="cpu"))
    device = choose_device()
    network.to(device).eval()

    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        pairs = flownet.Pairs(
            first=torch.from_numpy(np.ascontiguousarray(first)).to(device),
            second=torch.from_numpy(np.ascontiguousarray(second)).to(device),
        )
        return np.asarray(network.predict(pairs).cpu().numpy())

    return estimate
