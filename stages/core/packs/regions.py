"""Region masks on disk: one packed Arrow file a clip, a record batch a frame, its rows the regions, best first.

The rows are ``schemas.DETECTIONS`` without ``action_scores``. The schema's metadata has K and the frames that were
looked at, in the order of the batches: a frame in which nothing was found has a batch without rows.

Axes: R regions of one frame, K actors (background first), H, W frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pycocotools import mask as coco

from models.parts.region_to_pixel import region_to_pixel
from models.parts.region_types import MASK_SIDE
from stages.core.packs.masks import Rle
from stages.core.schemas import DETECTIONS

CORNERS = ("x1", "y1", "x2", "y2")
CERTAIN = 255
"""A soft mask's 1 as it is stored."""


@dataclass(frozen=True)
class FrameRegions:
    """The regions of one frame, best first."""

    boxes: np.ndarray  # (R, 4) float32 x1, y1, x2, y2, half open, in pixels
    scores: np.ndarray  # (R,) float32: how sure it is that there is an actor
    actor_scores: np.ndarray  # (R, K) float32, background first
    soft_masks: np.ndarray  # (R, 28, 28) float32, 0 to 1: probability that a part of the box belongs to the actor


def true_regions(masks: Sequence[np.ndarray], *, actor_scores: np.ndarray | None = None) -> FrameRegions:
    """Regions of true masks (H, W) bool: a soft mask is the mask's share in each of 28 x 28 cells of its box.

    ``actor_scores`` (N, K) of the masks; without them K is 0. An empty mask is no region.
    """
    seen = [position for position, mask in enumerate(masks) if mask.any()]
    boxes = np.array([box_of(masks[position]) for position in seen], np.float32).reshape(-1, 4)
    shares = [_cell_shares(masks[position]) for position in seen]
    scores = np.zeros((len(masks), 0)) if actor_scores is None else actor_scores
    return FrameRegions(
        boxes=boxes,
        scores=np.ones(len(seen), np.float32),
        actor_scores=scores[seen].astype(np.float32),
        soft_masks=np.array(shares, np.float32).reshape(-1, MASK_SIDE, MASK_SIDE),
    )


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2, half open, around a mask (H, W) that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def write_regions(
    path: Path, video: str, frames: Mapping[int, FrameRegions], *, shape: tuple[int, int], threshold: float
) -> None:
    """Pack the regions of the ``frames`` of ``shape`` (H, W) that were looked at, by number. Not atomic."""
    actors = max((regions.actor_scores.shape[1] for regions in frames.values()), default=0)
    schema = DETECTIONS.with_metadata({"actors": str(actors), "frames": " ".join(map(str, frames))})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for number, regions in frames.items():
            count = len(regions.scores)
            columns = {
                "video": [video] * count,
                "frame": [number] * count,
                **detection_columns(regions, shape=shape, threshold=threshold),
                "action_scores": [None] * count,
            }
            writer.write_batch(pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema))


def detection_columns(regions: FrameRegions, *, shape: tuple[int, int], threshold: float) -> dict[str, Sequence[Any]]:
    """What regions of a frame of ``shape`` (H, W) give of the columns of ``schemas.DETECTIONS``.

    A region's mask holds the pixels at which its soft mask, as it is stored, is above ``threshold``.
    """
    count = len(regions.scores)
    soft = np.rint(regions.soft_masks * CERTAIN).astype(np.uint8)
    masks = pasted(regions.boxes, soft.astype(np.float32) / CERTAIN, shape=shape, threshold=threshold)
    return {
        **dict(zip(CORNERS, regions.boxes.T, strict=True)),
        "score": regions.scores,
        "actor_scores": list(regions.actor_scores),
        "height": [shape[0]] * count,
        "width": [shape[1]] * count,
        "mask": [coco.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in masks],
        "soft_mask": [mask.tobytes() for mask in soft],
    }


def pasted(boxes: np.ndarray, soft_masks: np.ndarray, *, shape: tuple[int, int], threshold: float) -> np.ndarray:
    """(R, H, W) bool: where soft masks, stretched over their boxes as the region-to-pixel layer does, are above
    ``threshold``."""
    masks = np.zeros((len(boxes), *shape), bool)
    one = torch.ones(1, 1)
    for region, (box, soft) in enumerate(zip(torch.from_numpy(boxes), torch.from_numpy(soft_masks), strict=True)):
        masks[region] = region_to_pixel(box[None], soft[None], one, shape=shape)[0].numpy() > threshold
    return masks


class ClipRegions:
    """The regions of one clip, read frame by frame through a memory map."""

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        numbers = self._reader.schema.metadata[b"frames"].split()
        self._actors = int(self._reader.schema.metadata[b"actors"])
        self._batches = {int(number): batch for batch, number in enumerate(numbers)}

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames that were looked at."""
        return list(self._batches)

    def frame(self, number: int) -> FrameRegions:
        """The regions of frame ``number``. Raises ``KeyError`` for one that was not looked at."""
        rows = self._reader.get_batch(self._batches[number])
        soft = np.frombuffer(b"".join(rows["soft_mask"].to_pylist()), np.uint8)
        return FrameRegions(
            boxes=np.stack([rows[corner].to_numpy() for corner in CORNERS], axis=1),
            scores=rows["score"].to_numpy(),
            actor_scores=rows["actor_scores"].flatten().to_numpy().reshape(-1, self._actors),
            soft_masks=soft.reshape(-1, MASK_SIDE, MASK_SIDE).astype(np.float32) / CERTAIN,
        )

    def masks(self, number: int) -> list[Rle]:
        """Their masks, in the same order. Raises ``KeyError`` for a frame that was not looked at."""
        rows = self._reader.get_batch(self._batches[number])
        return [
            {"size": [row["height"], row["width"]], "counts": row["mask"]}
            for row in rows.select(["height", "width", "mask"]).to_pylist()
        ]


def _cell_shares(mask: np.ndarray) -> np.ndarray:
    """(28, 28) float64: the share of each cell of the mask's box that the mask covers, exact."""
    x1, y1, x2, y2 = box_of(mask)
    return _overlaps(y2 - y1) @ mask[y1:y2, x1:x2] @ _overlaps(x2 - x1).T


def _overlaps(length: int) -> np.ndarray:
    """(28, length): what share of each of 28 equal cells along ``length`` pixels each pixel is."""
    cells, pixels = np.arange(MASK_SIDE)[:, None] * (length / MASK_SIDE), np.arange(length)
    shared = np.minimum(cells + length / MASK_SIDE, pixels + 1) - np.maximum(cells, pixels)
    return shared.clip(min=0) * (MASK_SIDE / length)
