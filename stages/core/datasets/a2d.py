"""Reads the A2D release and A2D Sentences, in the layout that their authors publish.

Release/README                                      the label table NAME ID Valid R G B
Release/videoset.csv                                no header; vid, label, start, end, height, width, frames, anno, test
Release/clips320H/<vid>.mp4
Release/Annotations/mat/<vid>/<frame:05d>.mat       HDF5, arrays transposed; frames count from 1
Release/Annotations/col/<vid>/<frame:05d>.png
a2d_annotation.txt                                  video_id,instance_id,query
a2d_missed_videos.txt                               videos without a sentence
a2d_annotation_with_instances/<vid>/<frame:05d>.h5  as .mat, plus `instance`, the ids that sentences name
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from stages.core.datasets.files import csv_rows, hdf5_arrays, lines
from stages.core.datasets.labels import A2D, IGNORE, LabelSpace
from stages.core.datasets.release import Annotation, ClipRow, Reasons, check_video_id

CLIPS_FOLDER = PurePosixPath("Release/clips320H")
MAT_FOLDER = PurePosixPath("Release/Annotations/mat")
INSTANCE_FOLDER = PurePosixPath("a2d_annotation_with_instances")
VIDEOSET = PurePosixPath("Release/videoset.csv")
SENTENCES = PurePosixPath("a2d_annotation.txt")
README = PurePosixPath("Release/README")

LAYOUT = (
    (README, "the label table"),
    (VIDEOSET, "the list of clips"),
    (CLIPS_FOLDER, "the clips as <video>.mp4"),
    (MAT_FOLDER, "the annotations as <video>/<frame>.mat"),
    (PurePosixPath("Release/Annotations/col"), "the annotations as colour pictures"),
    (SENTENCES, "the sentences"),
    (PurePosixPath("a2d_missed_videos.txt"), "the videos without a sentence"),
    (INSTANCE_FOLDER, "the annotations with instance ids as <video>/<frame>.h5"),
)

COLUMNS = ("video", "label", "start", "end", "height", "width", "frames", "annotated", "test")

TABLE_ROW = re.compile(r"(\S+) ([0-9]{1,3}) ([01]) ([0-9]{1,3}) ([0-9]{1,3}) ([0-9]{1,3})")
"""NAME ID Valid R G B, one space between them."""


@dataclass(frozen=True)
class A2DRelease:
    """The release at ``folder``, with the instance ids of A2D Sentences where its copy of the annotations is there."""

    folder: Path
    label_space: LabelSpace = A2D

    def check(self) -> None:
        """Raise ``ValueError`` that lists what the folder lacks."""
        check_layout(self.folder)

    def clips(self) -> tuple[list[ClipRow], Reasons]:
        """Every clip of videoset.csv."""
        return read_videoset(self.folder / VIDEOSET)

    def annotation_files(self, row: ClipRow) -> list[Path]:
        """Each annotated frame's .mat, and its .h5 where there is one."""
        found = []
        for frame in annotated_frames(self.folder, row.video):
            for folder, suffix in ((MAT_FOLDER, "mat"), (INSTANCE_FOLDER, "h5")):
                path = self.folder / folder / row.video / f"{frame + 1:05d}.{suffix}"
                if path.exists():
                    found.append(path)
        return found

    def annotations(self, row: ClipRow) -> Iterator[tuple[int, Annotation | str]]:
        """(frame, annotation) in order; in place of an annotation that can't be used, the reason."""
        assert row.frames is not None
        for frame in annotated_frames(self.folder, row.video):
            if frame >= row.frames:
                yield frame, f"annotation of frame {frame + 1}, past the end of the clip ({row.frames} frames)"
                continue
            try:
                yield frame, read_annotation(self.folder, row.video, frame)
            except ValueError as error:
                yield frame, str(error)

    def sentences(self) -> tuple[list[tuple[str, int, str]], Reasons]:
        """Rows of a2d_annotation.txt."""
        return read_sentences(self.folder / SENTENCES)


def check_layout(folder: Path) -> None:
    """Raise ``ValueError`` that lists what a release at ``folder`` lacks and where it was looked for."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name the folder that holds Release/ and a2d_annotation.txt")
    missing = [f"  {path} ({what})" for path, what in LAYOUT if not (folder / path).exists()]
    if missing:
        raise ValueError(
            f"{folder.absolute()} is not in the layout of the A2D release; missing below it:\n" + "\n".join(missing)
        )
    read_label_table(folder / README)
    read_videoset(folder / VIDEOSET)


def read_label_table(path: Path) -> dict[int, str]:
    """Id -> name of the rows after the line NAME ID Valid R G B; empty where there is no such line.

    Raises ``ValueError`` that lists the rows that contradict ``labels.A2D``: its ids would mean something else here.
    """
    table: dict[int, str] = {}
    wrong: list[str] = []
    in_table = False
    for _, line in lines(path):
        text = " ".join(line.split())
        row = TABLE_ROW.fullmatch(text) if in_table else None
        in_table = in_table or "NAME ID Valid R G B" in text
        if row is None:
            continue
        label, colour = int(row[2]), (int(row[4]), int(row[5]), int(row[6]))
        names = {"bg", "background"} if label == 0 else {A2D.name(label)} if label in A2D.colours else set()
        known = row[1].lower() in names and colour == A2D.colours[label] and bool(int(row[3])) == A2D.valid[label]
        if not known or label in table:
            wrong.append(f"  {text}")
        table[label] = row[1]
    if wrong:
        raise ValueError(
            f"{path}: rows that contradict the labels of A2D (stages/core/datasets/labels.py); is it the release's own "
            "file?\n" + "\n".join(wrong)
        )
    return table


def read_videoset(path: Path) -> tuple[list[ClipRow], Reasons]:
    """Rows of videoset.csv, and row -> reason for those that can't be used.

    Raises ``ValueError`` when no row is usable (another file, a header, wrong columns).
    """
    rows: dict[str, ClipRow] = {}
    bad: Reasons = {}
    for place, fields in csv_rows(path, COLUMNS, bad, header=False):
        try:
            row = _clip_row(fields)
        except ValueError as error:
            bad[place] = str(error)
            continue
        if row.video in rows:
            bad[place] = f"video `{row.video}` is listed twice; the first row counts"
            continue
        rows[row.video] = row
    if not rows:
        reason = next(iter(bad.values()), "the file is empty")
        raise ValueError(f"{path}: no usable row ({reason}); expected columns without a header: {', '.join(COLUMNS)}")
    return list(rows.values()), bad


def read_sentences(path: Path) -> tuple[list[tuple[str, int, str]], Reasons]:
    """(video, instance, sentence) rows of a2d_annotation.txt, and row -> reason for those that can't be used.

    The real release has one such row: instance id ``1 (copy)``.
    """
    rows = []
    bad: Reasons = {}
    for place, fields in csv_rows(path, ("video_id", "instance_id", "query"), bad):
        video, instance, sentence = (field.strip() for field in fields)
        try:
            check_video_id(video)
        except ValueError as error:
            bad[place] = str(error)
            continue
        if not re.fullmatch("[0-9]{1,9}", instance):
            bad[place] = f"instance id `{instance[:80]}` of video `{video}` is no number"
            continue
        rows.append((video, int(instance), " ".join(sentence.split())))
    return rows, bad


def annotated_frames(folder: Path, video: str) -> list[int]:
    """0-based numbers of the frames of ``video`` that have an annotation file."""
    numbers = []
    for path in sorted((folder / MAT_FOLDER / video).glob("*.mat")):
        if re.fullmatch("[0-9]{5}|[1-9][0-9]{5,8}", path.stem) and int(path.stem) > 0:
            numbers.append(int(path.stem) - 1)
    return numbers


def read_annotation(folder: Path, video: str, frame: int) -> Annotation:
    """The annotation of 0-based ``frame``. Raises ``ValueError`` that says what is wrong with the file."""
    path = folder / MAT_FOLDER / video / f"{frame + 1:05d}.mat"
    with_ids = folder / INSTANCE_FOLDER / video / f"{frame + 1:05d}.h5"
    labels, masks, ids, boxes = hdf5_arrays(path, ("reS_id", "reMask", "id", "reBBox"))
    instances = hdf5_arrays(with_ids, ("instance",))[0].reshape(-1) if with_ids.exists() else None
    labels = np.ascontiguousarray(np.transpose(labels)).astype(np.int64)
    ids = ids.reshape(-1).astype(np.int64)
    if labels.ndim != 2 or not labels.size:
        raise ValueError(f"annotation {path.name}: reS_id has {labels.ndim} dimensions, 2 expected")
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise ValueError(f"annotation {path.name}: label ids outside 0 to 255")
    A2D.require_known(labels, where=f"annotation {path.name}")
    A2D.require_known(ids, where=f"annotation {path.name}: instances")
    if np.isin(ids, (0, IGNORE)).any():
        raise ValueError(f"annotation {path.name}: an instance of id 0 or {IGNORE}, which no actor has")
    # One instance: (W, H); more: (N, W, H). One instance's boxes may have lost their second axis too.
    masks = masks[np.newaxis] if masks.ndim == 2 else masks
    count = len(ids)
    if masks.shape != (count, *labels.T.shape) or boxes.shape not in {(4, count), (4,) * (count == 1)}:
        raise ValueError(
            f"annotation {path.name}: {count} ids, masks {masks.shape} and boxes {boxes.shape} do not fit "
            f"a label map of {labels.shape}"
        )
    if instances is None or len(instances) != count:
        instances = np.arange(count)
    if instances.min(initial=0) < 0 or instances.max(initial=0) >= 2**31:
        raise ValueError(f"annotation {with_ids.name}: instance ids below 0 or above 2^31")
    return Annotation(
        labels=labels.astype(np.uint8),
        actors=(ids // A2D.stride).astype(np.uint8),
        actions=tuple((int(action),) for action in ids % A2D.stride),
        boxes=boxes.reshape(4, -1).T.astype(np.float32),
        masks=masks.transpose(0, 2, 1) > 0,
        instances=instances.astype(np.int64),
    )


def _clip_row(fields: list[str]) -> ClipRow:
    video = check_video_id(fields[0].strip())
    try:
        label, height, width, frames, annotated, test = (int(fields[i]) for i in (1, 4, 5, 6, 7, 8))
    except ValueError as error:
        raise ValueError(f"video `{video}`: {str(error)[:120]}") from error
    if label not in A2D.colours:
        raise ValueError(f"video `{video}`: label {label} is no pair of actor and action")
    if not all(0 < count < 2**31 for count in (height, width, frames)) or not 0 <= annotated < 2**31:
        raise ValueError(f"video `{video}`: height, width and counts of frames must be positive")
    if test not in {0, 1}:
        raise ValueError(f"video `{video}`: test flag {test} is neither 0 nor 1")
    return ClipRow(
        video=video, split="test" if test else "train", path=CLIPS_FOLDER / f"{video}.mp4", annotated=annotated,
        frames=frames, height=height, width=width, label=label,
    )  # fmt: skip
