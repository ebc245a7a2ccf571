"""What a reader of a raw data set gives: clips, annotated frames, sentences. One reader a layout, all alike.

Frames count from 0; boxes are x1, y1, x2, y2, float, 0-based, half open.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from stages.core.datasets.labels import IGNORE, LabelSpace

LONGEST = 200
"""Bytes of a video's id: it becomes a file's name, with something before and after it."""

Reasons = dict[str, str]
"""What can't be used -> why."""


@dataclass(frozen=True)
class ClipRow:
    """One clip of a data set, as its lists say."""

    video: str
    split: str  # train or test
    path: PurePosixPath  # a video file, or a folder of pictures; relative to the data set
    annotated: int  # frames with an annotation that the data set promises
    frames: int | None = None  # None: the data set doesn't say
    height: int | None = None
    width: int | None = None
    label: int = IGNORE  # video-level


@dataclass(frozen=True)
class Annotation:
    """One annotated frame: label map (H, W) uint8, and N instances: actors (N,), boxes (N, 4), masks (N, H, W)."""

    labels: np.ndarray  # joint ids; actors in multi-label data
    actors: np.ndarray  # uint8; IGNORE where nobody told
    actions: tuple[tuple[int, ...], ...]  # of each instance: one, several in multi-label data, none where nobody told
    boxes: np.ndarray  # float32
    masks: np.ndarray  # bool
    instances: np.ndarray  # (N,) ids that sentences name
    action_masks: Mapping[int, np.ndarray] = field(default_factory=dict)  # multi-label data: action -> (H, W) bool


class Reader(Protocol):
    """A data set in one layout, at one folder. Readers are made in every worker: making one reads nothing."""

    @property
    def label_space(self) -> LabelSpace:
        """What the ids of its label maps mean."""
        ...

    def check(self) -> None:
        """Raise ``ValueError`` that lists what the folder lacks."""
        ...

    def clips(self) -> tuple[list[ClipRow], Reasons]:
        """Every clip that the data set lists, and row -> reason for those that can't be used.

        Raises ``ValueError`` where no clip can be used.
        """
        ...

    def annotation_files(self, row: ClipRow) -> list[Path]:
        """The files that ``annotations`` reads: what its result depends on."""
        ...

    def annotations(self, row: ClipRow) -> Iterator[tuple[int, Annotation | str]]:
        """(frame, annotation) in order; in place of an annotation that can't be used, the reason."""
        ...

    def sentences(self) -> tuple[list[tuple[str, int, str]], Reasons]:
        """(video, instance, sentence) rows, and row -> reason for those that can't be used."""
        ...


def check_video_id(video: str) -> str:
    """``video`` if it can be a file's name. Raises ``ValueError``: it must not lead out of a folder."""
    foreign = "/" in video or "\\" in video or not video.isprintable()
    if not video or foreign or video in {".", ".."} or len(video.encode()) > LONGEST:
        raise ValueError(f"video id {video[:80]!r} can't be a file name")
    return video
