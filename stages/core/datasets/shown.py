"""What videos show: the pairs of the instances in their annotated frames, and how large these are.

Axes: V videos, P pairs without background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from stages.core import schemas
from stages.core.datasets.labels import A2D, LabelSpace


@dataclass(frozen=True)
class Truth:
    """V videos with annotated frames, sorted: the pairs that each shows and how large its actors are."""

    videos: tuple[str, ...]
    shown: np.ndarray  # (V, P) bool, pairs in the order of LabelSpace.valid_ids[1:]
    area: np.ndarray  # (V,) share of the frame that actors cover, the mean over annotated frames
    left_out: tuple[str, ...] = ()  # pairs in the annotations that are not valid, by name


def load_truth(index: Path, *, labels: LabelSpace = A2D, split: str = "test") -> Truth:
    """The videos of ``split`` in data/index. Raises ``ValueError`` where it holds none.

    An instance whose actor or action nobody told shows no pair; neither does one of an invalid pair, which is told in
    ``left_out``.
    """
    if not (index / "frames.parquet").exists():
        raise ValueError(f"{index} holds no frames.parquet; give data/index, or make it (`dvc repro index`)")
    frames = schemas.read_parquet(index / "frames.parquet", schemas.FRAMES).select(["video", "frame", "split"])
    masks: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for row in frames.to_pylist():
        if row["split"] == split:
            masks.setdefault(row["video"], {})[row["frame"]] = []
    if not masks:
        raise ValueError(f"{index} holds no annotated frame of split `{split}`")
    videos = sorted(masks)
    columns = {label: column for column, label in enumerate(labels.valid_ids[1:])}
    shown = np.zeros((len(videos), len(columns)), bool)
    left_out = set()
    for row in schemas.read_parquet(index / "instances.parquet", schemas.INSTANCES).to_pylist():
        video, frame, actor = row["video"], row["frame"], row["actor"]
        if frame not in masks.get(video, {}):
            continue
        masks[video][frame].append({"size": [row["height"], row["width"]], "counts": row["mask"]})
        told = [action for action in row["actions"] if actor < len(labels.actors) and 0 < action < labels.stride]
        for label in (actor * labels.stride + action for action in told):
            if label in columns:
                shown[videos.index(video), columns[label]] = True
            else:
                left_out.add(labels.name(label))
    area = [np.mean([_share(rles) for rles in masks[video].values()]) for video in videos]
    return Truth(tuple(videos), shown, np.array(area), tuple(sorted(left_out)))


def _share(masks: Sequence[dict[str, Any]]) -> float:
    """Of the frame, what the ``masks`` cover together."""
    if not masks:
        return 0.0
    height, width = masks[0]["size"]
    return float(coco.area(coco.merge(masks))) / (height * width)
