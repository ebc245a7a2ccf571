"""The annotated instances of a data set, frame by frame: what segmenters and detectors learn from, and what regions
should be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from stages.core import schemas
from stages.core.datasets.dataset import Dataset
from stages.core.packs.masks import Rle

UNTOLD = 255
"""Actor of an instance that nobody named."""
Frame = tuple[str, int]
"""Video and number, from 0."""


@dataclass(frozen=True)
class Instance:
    """One actor in one frame."""

    actor: int  # UNTOLD where nobody told
    rle: Rle
    actions: tuple[int, ...] = ()  # one, or any number in multi-label data; none where nobody told

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return coco.decode(self.rle).astype(bool)


def read(samples: Dataset) -> dict[Frame, list[Instance]]:
    """The instances in every usable annotated frame of ``samples``, in their order; those with an empty mask are none.

    Frames are in the order of ``samples.frames``; one may have no instance.
    """
    assert samples.index is not None, "this data set was made without its tables"
    found: dict[Frame, list[Instance]] = {(frame.video, frame.frame): [] for frame in samples.frames}
    table = schemas.read_parquet(samples.index / "instances.parquet", schemas.INSTANCES)
    for row in table.select(["video", "frame", "actor", "actions", "height", "width", "mask"]).to_pylist():
        rle = {"size": [row["height"], row["width"]], "counts": row["mask"]}
        frame = (row["video"], row["frame"])
        if frame in found and coco.area(rle) > 0:
            found[frame].append(Instance(row["actor"], rle, tuple(row["actions"])))
    return found


def named(instances: Sequence[Instance], shape: Sequence[int]) -> tuple[list[Instance], np.ndarray]:
    """Those in a frame of ``shape`` (H, W) whose actor somebody told, and their masks (N, H, W) bool."""
    told = [seen for seen in instances if seen.actor != UNTOLD]
    return told, np.array([seen.mask for seen in told], bool).reshape(-1, *shape)
