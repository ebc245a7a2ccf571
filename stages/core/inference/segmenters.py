"""Instance segmenters by name, `<segmenter>-<data>`: which network it is, and what it learned from.

``own`` is the data set at hand. ``other`` is to it what COCO is to A2D: pictures of the generator with kinds of object
of their own, or, where the user has public weights, COCO itself. Either way a segmenter reports the data set's actors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from models.parts import fcis, maskrcnn
from models.parts.network import channels_last, choose_device
from stages.core import numerics
from stages.core.batches.framing import FRAMINGS, Framing
from stages.core.params import nearest

SEGMENTERS: dict[str, ModuleType] = {"fcis": fcis, "maskrcnn": maskrcnn}
"""Name of each segmenter -> its module (``models.parts.region_types`` says what it has)."""
DATA = ("own", "other")


def parse(name: str) -> tuple[ModuleType, str]:
    """Module and data of segmenter ``name``. Raises ``ValueError`` that says how a name is made."""
    segmenter, _, data = name.partition("-")
    if segmenter not in SEGMENTERS or data not in DATA:
        known = [f"{segmenter}-{data}" for segmenter in SEGMENTERS for data in DATA]
        raise ValueError(f"no segmenter `{name}`{nearest(name, known)} (<segmenter>-<data>)")
    return SEGMENTERS[segmenter], data


def configuration(module: ModuleType, size: str) -> Any:
    """``paper`` or ``small`` of a segmenter. Raises ``ValueError`` for another name."""
    if size not in FRAMINGS:
        raise ValueError(f"train_regions.config: `{size}` is neither `paper` nor `small`")
    return getattr(module, size)


@dataclass(frozen=True)
class Segmenter:
    """A trained network, how frames are shown to it, and on which device."""

    network: Any
    framing: Framing
    device: torch.device
    labels: Sequence[str]  # the classes that it reports, background first
    checked: numerics.Checked = field(default_factory=numerics.Checked, compare=False)


@lru_cache(maxsize=1)
def load(folder: Path, digest: str) -> Segmenter:
    """The segmenter at ``folder`` (model.pt, run.json). ``digest`` tells those at one path apart."""
    del digest
    run = json.loads((folder / "run.json").read_text())
    module, _ = parse(run["name"])
    network = module.build(configuration(module, run["config"]), run["labels"], learned=run["learned"])
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location="cpu"))
    device = choose_device()
    channels_last(network).to(device).eval()
    return Segmenter(network, FRAMINGS[run["config"]], device, run["labels"])
