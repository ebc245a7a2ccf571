"""Region masks of one clip: the item that the regions stage computes, by a trained segmenter or from the truth.

Axes: R regions of one frame, K actors (background first), H, W frame.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.base import finite
from models.parts.region_types import Regions
from stages.core import numerics
from stages.core.batches.transforms import to_height
from stages.core.batches.windows import Sample
from stages.core.datasets.instances import UNTOLD, Instance
from stages.core.inference.segmenters import Segmenter, load
from stages.core.packs.frames import Clip
from stages.core.packs.regions import FrameRegions, true_regions, write_regions

AT_ONCE = 8
"""Frames that are read together."""
HALF = 0.5
"""Share of a cell above which a true mask holds it."""


@numerics.located(lambda folder, digest: load(folder, digest), folder="segmenter", digest="digest")
def pack_found(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Regions of the clip ``argument["path"]`` by the segmenter in the folder ``argument["segmenter"]``.

    ``argument["frames"]`` are numbers, None for every frame; of each the best ``parameters["most"]`` regions that score
    more than ``parameters["score_threshold"]`` are kept.
    """
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    segmenter = load(Path(argument["segmenter"]), argument["digest"])
    clip = Clip(Path(argument["path"]))
    numbers = range(len(clip)) if argument["frames"] is None else argument["frames"]
    found: dict[int, FrameRegions] = {}
    for start in range(0, len(numbers), AT_ONCE):
        chunk = numbers[start : start + AT_ONCE]
        for number, regions in zip(chunk, _find(segmenter, clip.frames(chunk)), strict=True):
            for array in vars(regions).values():
                finite(array, f"regions of frame {number + 1}")
            kept = (regions.scores > parameters["score_threshold"]).nonzero()[: parameters["most"], 0]
            found[number] = FrameRegions(
                boxes=regions.boxes[kept].numpy(),
                scores=regions.scores[kept].numpy(),
                actor_scores=regions.class_scores[kept].numpy(),
                soft_masks=regions.soft_masks[kept].numpy(),
            )
    shape = (clip.height, clip.width)
    threshold = segmenter.network.config.mask_threshold
    write_regions(target, argument["video"], found, shape=shape, threshold=threshold)


def pack_true(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """The true regions: ``argument["instances"]`` has a list of (actor, counts of a COCO RLE) by frame.

    ``argument["shape"]`` is that of the frames (H, W), ``argument["classes"]`` the number of actors with background. An
    instance whose actor nobody told has scores of 0 for all.
    """
    del parameters
    shape = tuple(argument["shape"])
    found = {}
    for number, annotated in argument["instances"].items():
        masks = [Instance(actor, {"size": list(shape), "counts": counts}).mask for actor, counts in annotated]
        actor_scores = np.zeros((len(masks), argument["classes"]), np.float32)
        for row, (actor, _) in enumerate(annotated):
            if actor != UNTOLD:
                actor_scores[row, actor] = 1
        found[number] = true_regions(masks, actor_scores=actor_scores)
    write_regions(target, argument["video"], found, shape=shape, threshold=HALF)


def _find(segmenter: Segmenter, frames: np.ndarray) -> list[Regions]:
    """Regions in frames (B, H, W, 3) uint8, in their pixels."""
    nothing = np.zeros(frames.shape[:3], np.uint8)
    shown = to_height(Sample(frames=frames, labels=nothing), segmenter.framing.height).frames
    scale = torch.tensor([frames.shape[axis] / shown.shape[axis] for axis in (2, 1)] * 2)
    batch = torch.from_numpy(np.ascontiguousarray(shown)).to(segmenter.device)
    with segmenter.checked("float32", segmenter.device):
        found = segmenter.network.predict(batch)
    return [
        Regions(
            boxes=regions.boxes.cpu() * scale,
            scores=regions.scores.cpu(),
            class_scores=regions.class_scores.cpu(),
            soft_masks=regions.soft_masks.cpu(),
        )
        for regions in found
    ]
