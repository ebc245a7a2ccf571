"""Boxes for tests: a small data/index, and detections beside it. Labels are A2D's joint ids."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import schemas
from stages.core.datasets import dataset
from stages.core.datasets.labels import A2D
from stages.core.packs import masks
from stages.core.scores import boxes

HEIGHT, WIDTH = 100, 200

Box = tuple[float, float, float, float]
Instances = Mapping[str, Mapping[int, Sequence[tuple[Box, int]]]]
"""Video -> frame -> (box, joint id) of each instance."""


def write_index(folder: Path, truth: Instances, *, split: str = "test") -> Path:
    """data/index as far as scores of boxes read it."""
    frames, instances = [], []
    picture = masks.encode(np.zeros((HEIGHT, WIDTH), np.uint8))
    for video, by_frame in truth.items():
        for frame, found in by_frame.items():
            frames.append({"video": video, "frame": frame, "split": split, "labels": picture})
            for number, (box, label) in enumerate(found):
                row = {"video": video, "frame": frame, "instance": number, "height": HEIGHT, "width": WIDTH}
                what = {"actor": label // 10, "actions": [label % 10]}
                instances.append(row | what | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)))
    schemas.write_parquet(folder / "frames.parquet", schemas.rows_to_table(frames, schemas.FRAMES))
    schemas.write_parquet(folder / "instances.parquet", schemas.rows_to_table(instances, schemas.INSTANCES))
    dataset.write_description(folder, dataset.Description("a2d", A2D))
    return folder


def detection(video: str, frame: int, box: Box, label: int, score: float = 1.0, **columns: Any) -> dict[str, Any]:
    """A row that gives ``score`` to ``label``'s pair and its actor, and 1 to its action; ``columns`` replace others."""
    actors, actions = np.zeros(8), np.zeros(10)
    actors[label // 10], actions[label % 10] = score, 1
    row = {"video": video, "frame": frame, "score": 1.0, "height": HEIGHT, "width": WIDTH}
    scores = {"actor_scores": actors.tolist(), "action_scores": actions.tolist()}
    return row | scores | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)) | columns


def write_detections(path: Path, rows: Iterable[Mapping[str, Any]], *, looked_at: Sequence[str] = ()) -> Path:
    """A prediction of one file, which names the clips that were ``looked_at``."""
    table = schemas.rows_to_table(rows, schemas.DETECTIONS)
    schemas.write_parquet(path, boxes.with_looked_at(table, looked_at))
    return path
