"""Reads one's own videos in the layout of DAVIS (Perazzi et al. 2016, Pont-Tuset et al. 2017), with labels of A2D.

JPEGImages/[<resolution>/]<video>/<frame>.jpg|png      in the order of their names
Annotations/[<resolution>/]<video>/<frame>.png         ids of instances, indexed or grey; a mask of 0 and 255 has one, 1
ImageSets/**/train.txt, val.txt, test.txt              optional; without them every clip is test
labels.csv                                             optional; video,instance,label; an id or a name like dog-running
sentences.csv                                          optional; video,instance,sentence

An instance without a label is of actor 255, and so are its pixels.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from stages.core.datasets import files
from stages.core.datasets.labels import A2D, IGNORE, LabelSpace
from stages.core.datasets.release import Annotation, ClipRow, Reasons, check_video_id

PICTURES_FOLDER = PurePosixPath("JPEGImages")
MASKS_FOLDER = PurePosixPath("Annotations")
LISTS_FOLDER = PurePosixPath("ImageSets")
LABELS = "labels.csv"
SENTENCES = "sentences.csv"

LISTS = {"train.txt": "train", "val.txt": "test", "test.txt": "test"}
USUAL_RESOLUTION = "480p"
"""Which one counts where the data set comes in several."""
MOST_INSTANCES = 100
"""More ids than this in one mask are the soft edges of a grey picture."""

LABEL_IDS = {A2D.name(label): label for label in A2D.valid_ids[1:]}
"""``dog-running`` -> 77."""


@dataclass(frozen=True)
class DAVISRelease:
    """The videos at ``folder``."""

    folder: Path
    label_space: LabelSpace = A2D

    def check(self) -> None:
        """Raise ``ValueError`` that says what the folder lacks."""
        needed = ((PICTURES_FOLDER, "the frames"), (MASKS_FOLDER, "the masks"))
        missing = [
            f"  {path} ({what}, as <video>/<frame>)" for path, what in needed if not (self.folder / path).is_dir()
        ]
        if missing:
            raise ValueError(
                f"{self.folder.absolute()} is not in the layout of DAVIS; missing below it:\n" + "\n".join(missing)
            )
        rows, _ = self.clips()
        if not any(row.annotated for row in rows):
            raise ValueError(
                f"{self.folder / MASKS_FOLDER}: no <video>/<frame>.png for any of the {len(rows)} videos in "
                f"{self._pictures_folder()}; masks lie in folders of the same names"
            )

    def clips(self) -> tuple[list[ClipRow], Reasons]:
        """Every video with pictures; ``annotated`` counts its masks."""
        folders = files.subfolders(self.folder / self._pictures_folder())
        known = {folder.name for folder in folders}
        splits, bad = self._splits(known)
        rows: list[ClipRow] = []
        for folder in folders:
            try:
                rows.append(self._clip_row(folder, splits))
            except ValueError as error:
                bad[files.printable(folder.name)] = str(error)
                continue
            frames = {picture.stem for picture in files.pictures(folder)}
            for mask in self._mask_files(rows[-1].path):
                if mask.stem not in frames:
                    bad[f"{folder.name}/{files.printable(mask.name)}"] = "a mask of no picture"
        if not rows:
            reason = next(iter(bad.values()), "there are none")
            raise ValueError(f"{self.folder / self._pictures_folder()}: no usable <video>/<frame>.jpg ({reason})")
        labels, reasons = self._labels()
        bad |= reasons
        bad |= {place: f"no video `{video}`" for place, video, _, _ in labels if video not in known}
        masks = MASKS_FOLDER / PurePosixPath(*self._pictures_folder().parts[1:])
        if (self.folder / masks).is_dir():
            left = [folder.name for folder in files.subfolders(self.folder / masks) if folder.name not in known]
            bad |= {f"{masks}/{files.printable(name)}": "masks of no video" for name in left}
        return rows, bad

    def annotation_files(self, row: ClipRow) -> list[Path]:
        """The clip's masks, and labels.csv where it is there."""
        labels = self.folder / LABELS
        return [*self._mask_files(row.path), *([labels] if labels.exists() else [])]

    def annotations(self, row: ClipRow) -> Iterator[tuple[int, Annotation | str]]:
        """(frame, annotation) in order, of each picture that has a mask."""
        labels = {instance: label for _, video, instance, label in self._labels()[0] if video == row.video}
        masks: dict[str, Path] = {}
        for mask in self._mask_files(row.path):
            masks.setdefault(mask.stem, mask)
        for frame, picture in enumerate(files.pictures(self.folder / row.path)):
            if picture.stem not in masks:
                continue
            try:
                ids = read_mask(masks[picture.stem])
            except ValueError as error:
                yield frame, str(error)
                continue
            if ids.shape == (row.height, row.width):
                yield frame, _annotation(ids, labels)
            else:
                yield frame, f"mask of {ids.shape} pixels where the pictures have {(row.height, row.width)}"

    def sentences(self) -> tuple[list[tuple[str, int, str]], Reasons]:
        """Rows of sentences.csv; none where there is no such file."""
        bad: Reasons = {}
        found = self._csv(SENTENCES, "sentence", bad)
        return [(video, instance, " ".join(text.split())) for _, video, instance, text in found], bad

    def _pictures_folder(self) -> PurePosixPath:
        """JPEGImages, or the one resolution in it that counts."""
        inner = files.subfolders(self.folder / PICTURES_FOLDER)
        if any(map(files.pictures, inner)):
            return PICTURES_FOLDER
        resolutions = [folder.name for folder in inner if any(map(files.pictures, files.subfolders(folder)))]
        if not resolutions:
            return PICTURES_FOLDER
        if len(resolutions) > 1 and USUAL_RESOLUTION not in resolutions:
            names = ", ".join(map(files.printable, resolutions))
            raise ValueError(f"{self.folder / PICTURES_FOLDER} holds the resolutions {names}: keep one")
        return files.nameable(PICTURES_FOLDER / (resolutions[0] if len(resolutions) == 1 else USUAL_RESOLUTION))

    def _mask_files(self, clip: PurePosixPath) -> list[Path]:
        """The masks of the clip whose pictures are at ``clip``."""
        for path in (MASKS_FOLDER / PurePosixPath(*clip.parts[1:]), MASKS_FOLDER / clip.name):
            if (self.folder / path).is_dir():
                return files.pictures(self.folder / path)
        return []

    def _splits(self, known: set[str]) -> tuple[dict[str, str], Reasons]:
        """Video -> train or test, of those that a list names."""
        splits: dict[str, str] = {}
        bad: Reasons = {}
        found = [path for name in LISTS for path in (self.folder / LISTS_FOLDER).rglob(name)]
        for path in sorted(found):
            for number, line in files.lines(path):
                # DAVIS 2016 lists pairs of a picture and a mask, DAVIS 2017 videos.
                picture = re.match(r"/?JPEGImages/(?:[^/]+/)?([^/]+)/[^/]+\s", line)
                video = picture[1] if picture else line.strip()
                place = files.printable(f"{path.relative_to(self.folder)}:{number}")
                if video not in known:
                    bad[place] = f"no video {video[:80]!r}"
                elif splits.setdefault(video, LISTS[path.name]) != LISTS[path.name]:
                    bad[place] = f"video `{video}` is in a list of train and in one of test; it is test"
                    splits[video] = "test"
        return splits, bad

    def _labels(self) -> tuple[list[tuple[str, str, int, int]], Reasons]:
        """(place, video, instance, label) of each usable row of labels.csv."""
        bad: Reasons = {}
        rows = []
        seen = set()
        for place, video, instance, text in self._csv(LABELS, "label", bad):
            label = LABEL_IDS.get(text, int(text) if re.fullmatch(r"[0-9]{1,2}", text) else 0)
            if label not in LABEL_IDS.values():
                bad[place] = f"label {text[:80]!r} is no id or name of A2D; 77 and dog-running are one"
            elif (video, instance) in seen:
                bad[place] = f"instance {instance} of `{video}` has a label; the first one counts"
            else:
                seen.add((video, instance))
                rows.append((place, video, instance, label))
        return rows, bad

    def _csv(self, name: str, last: str, bad: Reasons) -> Iterator[tuple[str, str, int, str]]:
        """(place, video, instance, text) of each line of an optional csv."""
        if not (self.folder / name).exists():
            return
        for place, fields in files.csv_rows(self.folder / name, ("video", "instance", last), bad):
            video, instance, text = (field.strip() for field in fields)
            if not re.fullmatch(r"[0-9]{1,3}", instance) or not 0 < int(instance) < IGNORE:
                bad[place] = f"instance {instance[:80]!r} is no id from 1 to 254"
                continue
            try:
                yield place, check_video_id(video), int(instance), text
            except ValueError as error:
                bad[place] = str(error)

    def _clip_row(self, folder: Path, splits: dict[str, str]) -> ClipRow:
        video, found = check_video_id(folder.name), files.frame_pictures(folder)
        if video not in splits and "test" in splits.values():
            raise ValueError(f"no list below {LISTS_FOLDER} names it")
        height, width = files.picture_shape(found[0])
        path = PurePosixPath(folder.relative_to(self.folder))
        return ClipRow(
            video=video, split=splits.get(video, "test"), path=path, annotated=len(self._mask_files(path)),
            frames=len(found), height=height, width=width,
        )  # fmt: skip


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 ids of instances; 0 is background, 255 nobody knows. Raises ``ValueError`` that names the file."""
    ids = files.png_values(path)
    values = np.unique(ids)
    if len(values) > MOST_INSTANCES:
        name = files.printable(path.name)
        raise ValueError(f"{name} holds {len(values)} ids; soft edges? save the mask without smoothing, as PNG")
    binary = set(values.tolist()) <= {0, IGNORE}
    return np.where(ids == IGNORE, 1, ids).astype(np.uint8) if binary else ids


def _annotation(ids: np.ndarray, label_of: dict[int, int]) -> Annotation:
    instances = [int(instance) for instance in np.unique(ids) if instance not in {0, IGNORE}]
    given = [label_of.get(instance, IGNORE) for instance in instances]
    labels = np.where(ids == IGNORE, IGNORE, 0).astype(np.uint8)
    for instance, label in zip(instances, given, strict=True):
        labels[ids == instance] = label
    masks = ids == np.array(instances, np.uint8).reshape(-1, 1, 1)
    return Annotation(
        labels=labels,
        actors=np.array([IGNORE if label == IGNORE else label // A2D.stride for label in given], np.uint8),
        actions=tuple(() if label == IGNORE else (label % A2D.stride,) for label in given),
        boxes=files.mask_boxes(masks),
        masks=masks,
        instances=np.array(instances, np.int64),
    )
