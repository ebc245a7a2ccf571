"""FlowNets as backends of optical flow: trained weights, as stage `train_flow` leaves them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.base import finite
from models.parts import flownet
from models.parts.network import channels_last, choose_device
from stages.core import numerics
from stages.core.optical_flow.estimation import pack_clip

NAMES = ("flownets", "flownetc")


@dataclass(frozen=True)
class FlowNet:
    """A trained FlowNet as an estimator of flow (``stages.core.optical_flow.estimation``)."""

    network: Any
    device: torch.device
    checked: numerics.Checked = field(default_factory=numerics.Checked, compare=False)

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        pairs = flownet.Pairs(
            first=torch.from_numpy(np.ascontiguousarray(first)).to(self.device),
            second=torch.from_numpy(np.ascontiguousarray(second)).to(self.device),
        )
        with self.checked("float32", self.device, pairs["first"]):
            flow = finite(self.network.predict(pairs), "flow vectors")
        return np.asarray(flow.cpu().numpy())


@lru_cache(maxsize=1)
def open_network(folder: Path, digest: str) -> FlowNet:
    """The FlowNet at ``folder``; ``digest`` tells those that were at one path one after the other apart."""
    del digest
    run = json.loads((folder / "run.json").read_text())
    network = flownet.build(flownet.configuration(run["network"], run["config"]))
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location="cpu"))
    device = choose_device()
    return FlowNet(channels_last(network).to(device).eval(), device)


@numerics.located(lambda weights, digest: open_network(weights, digest), folder="weights", digest="digest")
def pack_flow(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """``estimation.pack_clip`` of ``argument["path"]`` by the network in the folder ``argument["weights"]``."""
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    estimator = open_network(Path(argument["weights"]), argument["digest"])
    pack_clip(Path(argument["path"]), estimator, parameters, target)
