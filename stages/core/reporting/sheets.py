"""The report's pictures of test frames: label maps of every run, and masks of what sentences mean.

Axes: H height, W width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from pycocotools import mask as coco

from stages.core import schemas
from stages.core.batches import windows
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.labels import IGNORE, LabelSpace
from stages.core.datasets.sentences import Sample, predicted_masks
from stages.core.packs.masks import Rle
from stages.core.reporting import overlays, pictures
from stages.core.scores import action_masks, maps

MOST_ROWS = 4
"""Frames in the picture of sentences."""
TEXT_HEIGHT, LINE_HEIGHT, TEXT_SCALE = 36, 11, 0.3
"""Of the sentence under a mask: pixels for it and for each of its lines, and cv2's scale."""
Pair = tuple[Sample, Sample]
T = TypeVar("T")


def write_labels(samples: Dataset, names: Sequence[str], folder: Path, *, rows: int, target: Path) -> None:
    """A row a test clip (spread over the set), columns frame, truth and every run of data/evaluate at ``folder``."""
    grid = []
    for video in _spread(samples.videos, rows):
        annotated = samples.annotated(video)
        frame = annotated[len(annotated) // 2]
        palette = samples.label_space.palette
        images = [windows.read(samples, video, [frame]).frames[0], palette[samples.labels(video, frame)]]
        for name in names:
            predicted = _predicted(samples.label_space, folder / name / "predictions", video, frame)
            images.append(np.zeros_like(images[0]) if predicted is None else palette[predicted])
        grid.append(images)
    pictures.write_sheet(target, grid, titles=["frame", "ground truth", *names])


def _predicted(space: LabelSpace, folder: Path, video: str, frame: int) -> np.ndarray | None:
    """The label map as the palette colours it: actors in multi-label data; None where the frame was not predicted."""
    if space.multi_label:
        sets = action_masks.Predictions(folder).sets(video, frame)
        return None if sets is None else sets.actors
    found = maps.PackedMaps(folder).maps(video, frame)
    return None if found is None else found["joint"]


def write_sentences(samples: Dataset, answers: Mapping[str, Path], *, target: Path) -> bool:
    """A row a test frame: the frame, then for each of two sentences that single out two actors of one kind the true
    mask and what each run of ``answers`` (name -> COCO json) answers. False, and no picture, where no frame has two
    such sentences that all of them answered."""
    truth = {asked.image_id: asked.rle for asked in samples.sentences}
    found = {name: predicted_masks(path.read_bytes(), truth, where=str(path)) for name, path in answers.items()}
    answered = set(truth).intersection(*found.values())
    grid = []
    for pair in _spread(list(of_one_kind(samples, answered)), MOST_ROWS):
        frame = windows.read(samples, pair[0].video, [pair[0].frame]).frames[0]
        row = [_cell(frame, "")]
        for asked in pair:
            masks = [of_run[asked.image_id][0][1] for of_run in found.values()]
            row += [_cell(_masked(frame, asked.rle), asked.sentence), *(_cell(_masked(frame, m), "") for m in masks)]
        grid.append(row)
    if grid:
        pictures.write_sheet(target, grid, titles=["frame", "meant first", *found, "meant second", *found])
    return bool(grid)


def of_one_kind(samples: Dataset, answered: Iterable[str]) -> Iterator[Pair]:
    """In each video, of the first frame that has them, two samples with other sentences about two instances of one
    actor class; both image ids were ``answered``."""
    assert samples.index is not None, "loaded with its tables"
    rows = schemas.read_parquet(samples.index / "instances.parquet", schemas.INSTANCES)
    columns = rows.select(["video", "frame", "instance", "actor"]).to_pylist()
    actors = {(row["video"], row["frame"], row["instance"]): row["actor"] for row in columns}
    known = set(answered)
    of_frame: dict[tuple[str, int], list[Sample]] = {}
    for asked in samples.sentences:
        if asked.image_id in known and actors[asked.video, asked.frame, asked.instance] != IGNORE:
            of_frame.setdefault((asked.video, asked.frame), []).append(asked)
    shown = set()
    for (video, frame), together in sorted(of_frame.items()):
        for one, other in combinations(together, 2):
            alike = actors[video, frame, one.instance] == actors[video, frame, other.instance]
            if video not in shown and alike and one.instance != other.instance and one.sentence != other.sentence:
                shown.add(video)
                yield one, other


def _spread(found: Sequence[T], most: int) -> list[T]:
    """``most`` of them, evenly; all where there are fewer."""
    return [found[round(i)] for i in np.linspace(0, len(found) - 1, min(most, len(found)))]


def _masked(frame: np.ndarray, mask: Rle) -> np.ndarray:
    return overlays.draw(frame, coco.decode(mask), overlays.of_sentence(""), ranked=())


def _cell(picture: np.ndarray, text: str) -> np.ndarray:
    """(CELL_HEIGHT, W, 3): ``picture`` (H, W, 3) made smaller, and ``text`` in lines below."""
    height = pictures.CELL_HEIGHT - TEXT_HEIGHT
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    cell = np.full((pictures.CELL_HEIGHT, width, 3), 255, np.uint8)
    cell[:height] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    for number, line in enumerate(_lines(text, width)[: TEXT_HEIGHT // LINE_HEIGHT], start=1):
        place = (2, height + number * LINE_HEIGHT)
        cv2.putText(cell, line, place, overlays.FONT, TEXT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def _lines(text: str, width: int) -> list[str]:
    """``text`` broken between words into lines of at most ``width`` pixels, but for a word that is longer."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and cv2.getTextSize(longer, overlays.FONT, TEXT_SCALE, 1)[0][0] <= width - 4:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
