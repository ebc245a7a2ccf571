"""Weights that a network starts from: public ones that the user names, or data/pretrain's."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from models.network import load_encoder

COCO = "coco"
"""Name of a checkpoint of a whole Mask R-CNN of COCO, for networks with ``load_coco``; others are of encoders."""
COCO_ENCODER = "rgb2d"
"""The encoder that such a checkpoint holds too."""


def load(network: Any, files: Mapping[str, Path]) -> None:
    """Load ``files``, by the names of the network's ``encoder_slots``; ``coco`` comes first, so that they replace it.

    Raises ``ValueError`` for a file that holds more than weights, or weights that do not fit.
    """
    for name in sorted(files, key=lambda name: name != COCO):
        path = files[name]
        try:
            checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        except UnpicklingError as error:
            raise ValueError(f"{path} holds more than weights: save its `state_dict` alone") from error
        if name == COCO:
            network.load_coco(checkpoint, where=str(path))
        else:
            load_encoder(network.encoder_slots()[name], checkpoint.get("state_dict", checkpoint), where=str(path))
