"""Reads VidOR (Shang et al. 2019): boxes and relations as pixel labels, as SSA2D (Rana and Rawat 2021) trains on them.

As published:       annotation/{training,validation}/<group>/<video>.json    video/<group>/<video>.mp4
As SSA2D has it:    Annotations/{training,validation}/[<group>/]<video>.json    Videos/{training,validation}/...

training is train, validation is test. Predicates are painted on the box of their subject.
Axes: T frames, N boxes, K actions (channel k is action k + 1), H height, W width.
"""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field

from stages.core.datasets.files import nameable, printable, subfolders
from stages.core.datasets.labels import VIDOR, VIDOR_PREDICATES, LabelSpace
from stages.core.datasets.release import Annotation, ClipRow, Reasons, check_video_id
from stages.core.datasets.vidor_document import Box, Document, read_document
from stages.core.params import Section

SPLITS = {"training": "train", "validation": "test"}
"""Folder -> split. The test set of VidOR's challenge has no published annotations."""
PUBLISHED = ("annotation", "video")
SSA2D = ("Annotations", "Videos")
"""Folders of annotations and of videos, in either layout."""

GRID = 56
"""Cells a side of SSA2D's label maps (section 3.6)."""


class Parameters(Section):
    """Section ``index.vidor`` of params.yaml."""

    predicates: Literal["actions", "all"] = "actions"  # the 42 actions, or the 8 spatial relations too
    frames_apart: int = Field(default=16, ge=1)  # every so many frames of a clip are annotated


@dataclass(frozen=True)
class VidORRelease:
    """The data set at ``folder``, in either layout."""

    folder: Path
    parameters: Parameters = field(default_factory=Parameters)

    @property
    def label_space(self) -> LabelSpace:
        """With or without the spatial relations, as ``predicates`` says."""
        return VIDOR if self.parameters.predicates == "actions" else VIDOR_PREDICATES

    def check(self) -> None:
        """Raise ``ValueError`` that lists what the folder lacks."""
        annotations, videos = self._layout()
        missing = [f"  {videos} (the clips)"] if not (self.folder / videos).is_dir() else []
        if not any((self.folder / annotations / subset).is_dir() for subset in SPLITS):
            missing.append(f"  {annotations}/training or {annotations}/validation (the annotations as <video>.json)")
        if missing:
            raise ValueError(
                f"{self.folder.absolute()} is not in the layout of VidOR; missing below it:\n" + "\n".join(missing)
            )

    def clips(self) -> tuple[list[ClipRow], Reasons]:
        """A clip for each annotation; what is wrong inside one, at the frames that count, is told here and left out."""
        rows: dict[str, ClipRow] = {}
        bad: Reasons = {}
        for subset, split in SPLITS.items():
            videos = self._videos(subset)
            for path in self._documents(subset):
                try:
                    video, document = check_video_id(path.stem), read_document(path, self.label_space)
                    clip = nameable(videos.get(video, self._expected(path)))
                except ValueError as error:
                    bad[f"{subset}/{printable(path.name)}"] = str(error)
                    continue
                if video in rows:
                    bad[f"{subset}/{path.name}"] = f"video `{video}` is annotated twice; the first one counts"
                    continue
                rows[video] = ClipRow(
                    video=video, split=split, path=clip,
                    annotated=len(self._sampled(document.frames)), frames=document.frames, height=document.height,
                    width=document.width,
                )  # fmt: skip
                faults = document.faults_at(self._sampled(document.frames))
                bad |= {f"{video}/{part}": reason for part, reason in faults.items()}
        if not rows:
            reason = next(iter(bad.values()), "there are none")
            raise ValueError(f"{self.folder / self._layout()[0]}: no usable <video>.json ({reason})")
        return list(rows.values()), bad

    def annotation_files(self, row: ClipRow) -> list[Path]:
        """The clip's one .json."""
        path = self._document(row)
        return [path] if path.exists() else []

    def annotations(self, row: ClipRow) -> Iterator[tuple[int, Annotation | str]]:
        """(frame, annotation) in order, of every ``frames_apart``-th frame."""
        assert row.frames is not None
        try:
            document = read_document(self._document(row), self.label_space)
        except ValueError as error:
            for frame in self._sampled(row.frames):
                yield frame, str(error)
            return
        for frame in self._sampled(document.frames):
            if frame < len(document.trajectories):
                yield frame, annotate(document, frame)
            else:
                yield frame, f"no boxes of frame {frame}: `trajectories` ends after {len(document.trajectories)} frames"

    def sentences(self) -> tuple[list[tuple[str, int, str]], Reasons]:
        """None: VidOR has no sentences."""
        return [], {}

    def _layout(self) -> tuple[str, str]:
        return PUBLISHED if (self.folder / PUBLISHED[0]).is_dir() else SSA2D

    def _sampled(self, frames: int) -> range:
        return range(min(self.parameters.frames_apart // 2, frames - 1), frames, self.parameters.frames_apart)

    def _documents(self, subset: str) -> list[Path]:
        folder = self.folder / self._layout()[0] / subset
        if not folder.is_dir():
            return []
        return _files([folder, *subfolders(folder)], ".json")

    def _videos(self, subset: str) -> dict[str, PurePosixPath]:
        """Video -> its clip, wherever it lies below the folder of videos."""
        folder = self.folder / self._layout()[1] / (subset if self._layout() == SSA2D else "")
        if not folder.is_dir():
            return {}
        found = _files([folder, *subfolders(folder)], ".mp4")
        return {path.stem: PurePosixPath(path.relative_to(self.folder)) for path in found}

    def _expected(self, document: Path) -> PurePosixPath:
        """Where the clip of an annotation should lie."""
        annotations, videos = self._layout()
        inner = PurePosixPath(document.relative_to(self.folder / annotations)).with_suffix(".mp4")
        return PurePosixPath(videos, *(inner.parts if videos == SSA2D[1] else inner.parts[1:]))

    def _document(self, row: ClipRow) -> Path:
        """The annotation of a clip, which lies in a group's folder of the clip's name, of another one, or in none."""
        subset = next(subset for subset, split in SPLITS.items() if split == row.split)
        folder, name = self.folder / self._layout()[0] / subset, f"{row.video}.json"
        for path in (folder / row.path.parent.name / name, folder / name):
            if path.is_file():
                return path
        return next(iter(sorted(folder.glob(f"*/{glob.escape(name)}"))), folder / name)


def annotate(document: Document, frame: int) -> Annotation:
    """The boxes of ``frame`` and what their subjects do. Later boxes lie on top, as SSA2D paints them."""
    boxes = document.boxes(frame)
    labels = np.zeros((document.height, document.width), np.uint8)
    masks = np.zeros((len(boxes), document.height, document.width), bool)
    actions = tuple(document.actions(box.tid, frame) for box in boxes)
    for mask, box in zip(masks, boxes, strict=True):
        inside = np.s_[max(box.ymin, 0) : box.ymax + 1, max(box.xmin, 0) : box.xmax + 1]
        mask[inside] = True
        labels[inside] = document.categories[box.tid]
    corners = [(box.xmin, box.ymin, box.xmax + 1, box.ymax + 1) for box in boxes]
    return Annotation(
        labels=labels,
        actors=np.array([document.categories[box.tid] for box in boxes], np.uint8),
        actions=actions,
        boxes=np.array(corners, np.float32).reshape(-1, 4),
        masks=masks,
        instances=np.array([box.tid for box in boxes], np.int64),
        action_masks={
            action: np.any(masks[[action in done for done in actions]], axis=0)
            for action in sorted({action for done in actions for action in done})
        },
    )


def clip_maps(
    document: Document, frames: Sequence[int], space: LabelSpace, *, grid: int = GRID, acting_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """SSA2D's training target of a clip of T ``frames`` (16): objects (T/2, grid, grid) uint8, 0 is background, and
    actions (T/2, K, grid, grid) bool, both of every second frame.

    As its released loader makes them: corners scaled to the grid as they are published (so the last row and column of
    a box count for nothing), rounded half to even, clamped; later boxes overwrite; an action that is seen in fewer than
    half of the T frames is taken out of all. ``acting_only`` takes out objects where nobody does anything.
    """
    objects: np.ndarray = np.zeros((len(frames), grid, grid), np.uint8)
    actions: np.ndarray = np.zeros((len(frames), len(space.actions) - 1, grid, grid), bool)
    for position, frame in enumerate(frames):
        for box in document.boxes(frame):
            cells = _cells(box, document, grid)
            objects[position][cells] = document.categories[box.tid]
            for action in document.actions(box.tid, frame):
                actions[position, action - 1][cells] = True
    seen = actions.any(axis=(2, 3)).sum(axis=0)  # (K,) frames
    actions[:, seen < len(frames) // 2] = False
    objects, actions = objects[::2], actions[::2]
    if acting_only:
        objects = np.where(actions.any(axis=1), objects, 0)
    return objects, actions


def _cells(box: Box, document: Document, grid: int) -> tuple[slice, slice]:
    x1, x2 = np.clip(np.round(np.array([box.xmin, box.xmax]) * grid / document.width), 0, grid).astype(int)
    y1, y2 = np.clip(np.round(np.array([box.ymin, box.ymax]) * grid / document.height), 0, grid).astype(int)
    return slice(y1, y2), slice(x1, x2)


def _files(folders: Sequence[Path], suffix: str) -> list[Path]:
    found = [path for folder in folders for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")]
    return sorted(path for path in found if path.is_file())
