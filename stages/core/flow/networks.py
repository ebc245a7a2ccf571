"""FlowNets as backends of optical flow: trained weights, as stage `train_flow` leaves them."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import flownet
from models.network import channels_last, choose_device
from stages.core.flow.estimation import Estimator, pack_clip

NAMES = ("flownets", "flownetc")


def pack_flow(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """``estimation.pack_clip`` of ``argument["path"]`` by the network in the folder ``argument["weights"]``."""
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    estimator = open_network(Path(argument["weights"]), argument["digest"])
    pack_clip(Path(argument["path"]), estimator, parameters, target)


@lru_cache(maxsize=1)
def open_network(folder: Path, digest: str) -> Estimator:
    """A trained FlowNet; ``digest`` tells those that were at one path one after the other apart."""
    del digest
    run = json.loads((folder / "run.json").read_text())
    network = flownet.build(flownet.configuration(run["network"], run["config"]))
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location="cpu"))
    device = choose_device()
    channels_last(network).to(device).eval()

    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        pairs = flownet.Pairs(
            first=torch.from_numpy(np.ascontiguousarray(first)).to(device),
            second=torch.from_numpy(np.ascontiguousarray(second)).to(device),
        )
        return np.asarray(network.predict(pairs).cpu().numpy())

    return estimate
