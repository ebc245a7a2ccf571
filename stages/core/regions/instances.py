"""The annotated instances of a data set, frame by frame: what segmenters learn from, and what regions should be."""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from stages.core import tables
from stages.core.dataset import Dataset
from stages.core.sentences import Rle

UNTOLD = 255
"""Actor of an instance that nobody named."""
Frame = tuple[str, int]
"""Video and number, from 0."""


@dataclass(frozen=True)
class Instance:
    """One actor in one frame."""

    actor: int  # UNTOLD where nobody told
    rle: Rle

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
    table = tables.read_parquet(samples.index / "instances.parquet", tables.INSTANCES)
    for row in table.select(["video", "frame", "actor", "height", "width", "mask"]).to_pylist():
        rle = {"size": [row["height"], row["width"]], "counts": row["mask"]}
        frame = (row["video"], row["frame"])
        if frame in found and coco.area(rle) > 0:
            found[frame].append(Instance(row["actor"], rle))
    return found
