"""Weights that a network starts from (public ones that the user names, or data/pretrain's), and the digest of trained
ones (data/<stage>/<name>: model.pt, run.json)."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from models.parts.network import load_encoder
from stages.core import items

COCO = "coco"
"""Name of a checkpoint of a whole Mask R-CNN of COCO, for networks with ``load_coco``; others are of encoders."""
COCO_ENCODER = "rgb2d"
"""The encoder that such a checkpoint holds too."""
MEND = "correct `weights` in params.yaml or download the file again (for data/pretrain: `dvc repro --force pretrain`)"


def load(network: Any, files: Mapping[str, Path]) -> dict[str, str]:
    """Load ``files``, by the names of the network's ``encoder_slots``; ``coco`` comes first, so that they replace it.

    Returns name -> digest of its file. Raises ``ValueError`` as ``read``, and for weights that do not fit.
    """
    for name in sorted(files, key=lambda name: name != COCO):
        path = files[name]
        checkpoint = read(path)
        if name == COCO:
            network.load_coco(checkpoint, where=str(path))
        else:
            load_encoder(network.encoder_slots()[name], checkpoint.get("state_dict", checkpoint), where=str(path))
    return {name: items.file_digest(path) for name, path in files.items()}


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at ``path``: a state dict, or a dict that holds it as ``state_dict``.

    Raises ``ValueError`` for a file that is missing or broken, and one that holds more or other than weights.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: {MEND}")
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # bytes that are no checkpoint raise whatever they happen to mean to pickle
        if isinstance(error, UnpicklingError) and is_zipfile(path):
            raise ValueError(f"{path} holds more than weights: save its `state_dict` alone") from error
        raise ValueError(f"{path} is no checkpoint of PyTorch, or a broken one: {MEND}") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: {MEND}")
    return checkpoint


def digest(folder: Path, *, stage: str) -> str:
    """Of the network that ``stage`` left in ``folder``. Raises ``ValueError`` when it is not there."""
    if not (folder / "model.pt").exists():
        raise ValueError(f"{folder / 'model.pt'} not found: run `dvc repro {stage}@{folder.name}`")
    return items.digest([items.file_digest(folder / name) for name in ("model.pt", "run.json")])
