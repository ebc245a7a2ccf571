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

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from stages.core.labels import A2D

CLIPS_FOLDER = PurePosixPath("Release/clips320H")
MAT_FOLDER = PurePosixPath("Release/Annotations/mat")
INSTANCE_FOLDER = PurePosixPath("a2d_annotation_with_instances")
VIDEOSET = PurePosixPath("Release/videoset.csv")
SENTENCES = PurePosixPath("a2d_annotation.txt")

LAYOUT = (
    (PurePosixPath("Release/README"), "the label table"),
    (VIDEOSET, "the list of clips"),
    (CLIPS_FOLDER, "the clips as <video>.mp4"),
    (MAT_FOLDER, "the annotations as <video>/<frame>.mat"),
    (PurePosixPath("Release/Annotations/col"), "the annotations as colour pictures"),
    (SENTENCES, "the sentences"),
    (PurePosixPath("a2d_missed_videos.txt"), "the videos without a sentence"),
    (INSTANCE_FOLDER, "the annotations with instance ids as <video>/<frame>.h5"),
)

COLUMNS = ("video", "label", "start", "end", "height", "width", "frames", "annotated", "test")


@dataclass(frozen=True)
class ClipRow:
    """One row of videoset.csv."""

    video: str
    label: int
    height: int
    width: int
    frames: int
    annotated: int
    split: str  # train or test


@dataclass(frozen=True)
class Annotation:
    """One annotated frame: label map (H, W) uint8, and N instances: ids (N,), boxes (N, 4), masks (N, H, W)."""

    labels: np.ndarray
    instance_labels: np.ndarray
    boxes: np.ndarray  # x1, y1, x2, y2, 0-based, half open, float32
    masks: np.ndarray  # bool
    instances: np.ndarray  # (N,) ids that sentences name; the position where the file has none


def check_layout(folder: Path) -> None:
    """Raise ``ValueError`` that lists what a release at ``folder`` lacks and where it was looked for."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name the folder that holds Release/ and a2d_annotation.txt")
    missing = [f"  {path} ({what})" for path, what in LAYOUT if not (folder / path).exists()]
    if missing:
        raise ValueError(
            f"{folder.absolute()} is not in the layout of the A2D release; missing below it:\n" + "\n".join(missing)
        )
    read_videoset(folder / VIDEOSET)


def read_videoset(path: Path) -> tuple[list[ClipRow], dict[str, str]]:
    """Rows of videoset.csv, and row -> reason for those that can't be used.

    Raises ``ValueError`` when no row is usable (another file, a header, wrong columns).
    """
    rows: dict[str, ClipRow] = {}
    bad: dict[str, str] = {}
    for number, fields in enumerate(_csv_lines(path), start=1):
        try:
            row = _clip_row(fields)
        except ValueError as error:
            bad[f"videoset.csv:{number}"] = str(error)
            continue
        if row.video in rows:
            bad[f"videoset.csv:{number}"] = f"video `{row.video}` is listed twice; the first row counts"
            continue
        rows[row.video] = row
    if not rows:
        reason = next(iter(bad.values()), "the file is empty")
        raise ValueError(f"{path}: no usable row ({reason}); expected columns without a header: {', '.join(COLUMNS)}")
    return list(rows.values()), bad


def read_sentences(path: Path) -> tuple[list[tuple[str, int, str]], dict[str, str]]:
    """(video, instance, sentence) rows of a2d_annotation.txt, and row -> reason for those that can't be used.

    The real release has one such row: instance id ``1 (copy)``.
    """
    rows = []
    bad = {}
    lines = _csv_lines(path)
    header = next(lines, [])
    if [field.strip() for field in header] != ["video_id", "instance_id", "query"]:
        found = ",".join(header)[:80]
        raise ValueError(f"{path}: the first line must be video_id,instance_id,query, found {found!r}")
    for number, fields in enumerate(lines, start=2):
        if len(fields) != 3:
            bad[f"{path.name}:{number}"] = f"{len(fields)} fields where 3 are expected"
            continue
        video, instance, sentence = (field.strip() for field in fields)
        if not instance.isdecimal():
            bad[f"{path.name}:{number}"] = f"instance id `{instance}` of video `{video}` is no number"
            continue
        rows.append((video, int(instance), " ".join(sentence.split())))
    return rows, bad


def annotated_frames(folder: Path, video: str) -> list[int]:
    """0-based numbers of the frames of ``video`` that have an annotation file."""
    numbers = []
    for path in sorted((folder / MAT_FOLDER / video).glob("*.mat")):
        if path.stem.isdecimal() and int(path.stem) > 0:
            numbers.append(int(path.stem) - 1)
    return numbers


def read_annotation(folder: Path, video: str, frame: int) -> Annotation:
    """The annotation of 0-based ``frame``. Raises ``ValueError`` that says what is wrong with the file."""
    path = folder / MAT_FOLDER / video / f"{frame + 1:05d}.mat"
    with_ids = folder / INSTANCE_FOLDER / video / f"{frame + 1:05d}.h5"
    try:
        with h5py.File(path, "r") as file:
            labels = np.ascontiguousarray(np.transpose(file["reS_id"][()])).astype(np.int64)
            masks = np.asarray(file["reMask"][()])
            ids = np.asarray(file["id"][()]).reshape(-1).astype(np.int64)
            boxes = np.asarray(file["reBBox"][()], dtype=np.float32)
        instances = _instance_ids(with_ids) if with_ids.exists() else None
    except FileNotFoundError as error:
        raise ValueError(f"annotation {path.name} is missing") from error
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"annotation {path.name} can't be read: {error}") from error
    if labels.ndim != 2:
        raise ValueError(f"annotation {path.name}: reS_id has {labels.ndim} dimensions, 2 expected")
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise ValueError(f"annotation {path.name}: label ids outside 0 to 255")
    A2D.require_known(labels, where=f"annotation {path.name}")
    A2D.require_known(ids, where=f"annotation {path.name}: instances")
    # One instance: (W, H); more: (N, W, H). One instance's boxes may have lost their second axis too.
    masks = masks[np.newaxis] if masks.ndim == 2 else masks
    masks = masks.transpose(0, 2, 1) > 0
    boxes = boxes.reshape(4, -1).T
    count = len(ids)
    if masks.shape != (count, *labels.shape) or boxes.shape != (count, 4):
        raise ValueError(
            f"annotation {path.name}: {count} ids, masks {masks.shape} and boxes {boxes.shape} do not fit "
            f"a label map of {labels.shape}"
        )
    if instances is None or len(instances) != count:
        instances = np.arange(count)
    return Annotation(
        labels=labels.astype(np.uint8),
        instance_labels=ids.astype(np.uint8),
        boxes=boxes,
        masks=masks,
        instances=instances,
    )


def _instance_ids(path: Path) -> np.ndarray:
    with h5py.File(path, "r") as file:
        return np.asarray(file["instance"][()]).reshape(-1).astype(np.int64)


def _csv_lines(path: Path) -> Iterator[list[str]]:
    """Fields of each line. Line by line: a stray quote costs its own line, not all that follow."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            yield next(csv.reader([line]), [])


def _clip_row(fields: list[str]) -> ClipRow:
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields where {len(COLUMNS)} are expected")
    video = fields[0].strip()
    if not video or "/" in video or "\\" in video or video in {".", ".."} or "\0" in video:
        raise ValueError(f"video id {video!r} can't be a file name")
    try:
        label, height, width, frames, annotated, test = (int(fields[i]) for i in (1, 4, 5, 6, 7, 8))
    except ValueError as error:
        raise ValueError(f"video `{video}`: {error}") from error
    if label not in A2D.colours:
        raise ValueError(f"video `{video}`: label {label} is no pair of actor and action")
    if not all(0 < count < 2**31 for count in (height, width, frames)) or not 0 <= annotated < 2**31:
        raise ValueError(f"video `{video}`: height, width and counts of frames must be positive")
    if test not in {0, 1}:
        raise ValueError(f"video `{video}`: test flag {test} is neither 0 nor 1")
    return ClipRow(video, label, height, width, frames, annotated, split="test" if test else "train")
