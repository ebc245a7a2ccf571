"""Reads J-HMDB (Jhuang et al. 2013), and the sentences of Gavrilyuk et al. (2018) where they are there.

Rename_Images/<action>/<video>/<frame:05d>.png     frames count from 1
puppet_mask/<action>/<video>/puppet_mask.mat       part_mask (H, W, T) of one person; T may be less than the pictures
splits/<action>_test_split<k>.txt                  lines <video>.avi 1|2, 1 train and 2 test; for `split` 1 to 3
jhmdb_annotation.txt                               video_id,query; optional
jhmdb_sentences_samples_metadata.json              rows [video, picture, mask, frames, query]; for `sampling` fixed
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import Field

from stages.core.datasets import files
from stages.core.datasets.labels import JHMDB, LabelSpace
from stages.core.datasets.release import Annotation, ClipRow, Reasons, check_video_id
from stages.core.params import Section

IMAGES_FOLDER = PurePosixPath("Rename_Images")
MASKS_FOLDER = PurePosixPath("puppet_mask")
SPLITS_FOLDER = PurePosixPath("splits")
SENTENCES = "jhmdb_annotation.txt"
SAMPLES = "jhmdb_sentences_samples_metadata.json"

PERSON = 1
"""The one actor."""


class Parameters(Section):
    """Section ``index.jhmdb`` of params.yaml."""

    frames: int = Field(default=3, ge=1)  # annotated frames of a clip, of `uniform` sampling
    sampling: Literal["uniform", "fixed"] = "uniform"  # fixed: the frames that later papers drew once and share
    split: int = Field(default=0, ge=0, le=3)  # 0: all clips are test, as in Gavrilyuk et al.


@dataclass(frozen=True)
class JHMDBRelease:
    """The data set at ``folder``; its sentences are an extra."""

    folder: Path
    parameters: Parameters = field(default_factory=Parameters)
    label_space: LabelSpace = JHMDB

    def check(self) -> None:
        """Raise ``ValueError`` that lists what the folder lacks."""
        needed = [(IMAGES_FOLDER, "the frames as <action>/<video>/<frame>.png")]
        needed.append((MASKS_FOLDER, "the masks as <action>/<video>/puppet_mask.mat"))
        if self.parameters.sampling == "fixed":
            needed.append((PurePosixPath(SAMPLES), "the frames of `index.jhmdb.sampling: fixed`"))
        if self.parameters.split:
            split = f"`index.jhmdb.split: {self.parameters.split}`"
            needed += [(self._split_file(action), f"train and test of {split}") for action in self._actions()]
        missing = [f"  {path} ({what})" for path, what in needed if not (self.folder / path).exists()]
        if missing:
            raise ValueError(
                f"{self.folder.absolute()} is not in the layout of J-HMDB; missing below it:\n" + "\n".join(missing)
            )

    def clips(self) -> tuple[list[ClipRow], Reasons]:
        """Every clip below Rename_Images; ``annotated`` are the frames that would be sampled of all its pictures."""
        rows: dict[str, ClipRow] = {}
        splits, bad = self._splits()
        samples, reasons = self._samples()
        bad |= reasons
        for action in files.subfolders(self.folder / IMAGES_FOLDER):
            if action.name not in JHMDB.actions[1:]:
                bad[f"{IMAGES_FOLDER}/{files.printable(action.name)}"] = "no action of J-HMDB; its clips are left out"
                continue
            for clip in files.subfolders(action):
                place = f"{action.name}/{files.printable(clip.name)}"
                try:
                    row = self._clip_row(action.name, clip, splits, samples)
                except ValueError as error:
                    bad[place] = str(error)
                    continue
                if row.video in rows:
                    bad[place] = f"video `{row.video}` is there twice; the one at {rows[row.video].path} counts"
                    continue
                rows[row.video] = row
        if not rows:
            reason = next(iter(bad.values()), "there are none")
            raise ValueError(f"{self.folder / IMAGES_FOLDER}: no usable <action>/<video>/<frame>.png ({reason})")
        if self.parameters.sampling == "fixed":
            bad |= {f"{video}/samples": f"{SAMPLES} has no row of it" for video in rows if video not in samples}
        return list(rows.values()), bad

    def annotation_files(self, row: ClipRow) -> list[Path]:
        """The clip's masks, and the list of sampled frames where it is that of others."""
        samples = [self.folder / SAMPLES] if self.parameters.sampling == "fixed" else []
        return [path for path in (self._mask_file(row), *samples) if path.exists()]

    def annotations(self, row: ClipRow) -> Iterator[tuple[int, Annotation | str]]:
        """(frame, annotation) in order; an annotation without an instance where nothing of the person is seen."""
        assert row.frames is not None
        try:
            masks = read_masks(self._mask_file(row))
        except ValueError as error:
            for frame in self._sampled(row.video, row.frames):
                yield frame, str(error)
            return
        usable = min(len(masks), row.frames)
        action = JHMDB.actions.index(row.path.parent.name)
        for frame in self._sampled(row.video, usable):
            if frame < usable:
                yield frame, _annotation(masks[frame], action)
            else:
                yield frame, f"frame {frame + 1} has no mask: {len(masks)} masks, {row.frames} pictures"

    def sentences(self) -> tuple[list[tuple[str, int, str]], Reasons]:
        """Rows of jhmdb_annotation.txt, or of the fixed samples where those are chosen; none where there is no file."""
        if self.parameters.sampling == "fixed":
            samples, bad = read_samples(self.folder / SAMPLES)
            return list(dict.fromkeys((video, 0, sentence) for video, _, sentence in samples)), bad
        bad = {}
        rows: list[tuple[str, int, str]] = []
        if not (self.folder / SENTENCES).exists():
            return rows, bad
        for place, (video, sentence) in files.csv_rows(self.folder / SENTENCES, ("video_id", "query"), bad):
            try:
                rows.append((check_video_id(video.strip()), 0, " ".join(sentence.split())))
            except ValueError as error:
                bad[place] = str(error)
        return rows, bad

    def _actions(self) -> list[str]:
        if not (self.folder / IMAGES_FOLDER).is_dir():
            return []
        return [path.name for path in files.subfolders(self.folder / IMAGES_FOLDER) if path.name in JHMDB.actions[1:]]

    def _split_file(self, action: str) -> PurePosixPath:
        return SPLITS_FOLDER / f"{action}_test_split{self.parameters.split}.txt"

    def _mask_file(self, row: ClipRow) -> Path:
        return self.folder / MASKS_FOLDER / row.path.parent.name / row.video / "puppet_mask.mat"

    def _splits(self) -> tuple[dict[str, str], Reasons]:
        """Video -> train or test by the chosen official split."""
        splits: dict[str, str] = {}
        bad: Reasons = {}
        if not self.parameters.split:
            return splits, bad
        for action in self._actions():
            path = self._split_file(action)
            for number, line in files.lines(self.folder / path):
                entry = re.fullmatch(r"(.+)\.avi\s+([12])", line.strip())
                if entry is None:
                    bad[f"{path}:{number}"] = f"{line.strip()[:80]!r} where <video>.avi 1 or 2 is expected"
                    continue
                splits[entry[1]] = "train" if entry[2] == "1" else "test"
        return splits, bad

    def _samples(self) -> tuple[dict[str, list[int]], Reasons]:
        """Video -> fixed frames, sorted."""
        samples: dict[str, list[int]] = {}
        if self.parameters.sampling != "fixed":
            return samples, {}
        rows, bad = read_samples(self.folder / SAMPLES)
        for video, frame, _ in rows:
            samples[video] = sorted({frame, *samples.get(video, [])})
        return samples, bad

    def _sampled(self, video: str, usable: int) -> list[int]:
        if self.parameters.sampling == "fixed":
            return self._samples()[0].get(video, [])
        return middles(usable, self.parameters.frames)

    def _clip_row(self, action: str, clip: Path, splits: dict[str, str], samples: dict[str, list[int]]) -> ClipRow:
        video, found = check_video_id(clip.name), files.pictures(clip)
        for number, picture in enumerate(found, start=1):
            if picture.name != f"{number:05d}.png":
                raise ValueError(f"found {files.printable(picture.name)} where {number:05d}.png is expected")
        if not found:
            raise ValueError("no pictures 00001.png, 00002.png, ...")
        if self.parameters.split and video not in splits:
            raise ValueError(f"{self._split_file(action)} does not name it")
        uniform = self.parameters.sampling == "uniform"
        frames = middles(len(found), self.parameters.frames) if uniform else samples.get(video, [])
        path = IMAGES_FOLDER / action / video
        return ClipRow(video, splits.get(video, "test"), path, annotated=len(frames), frames=len(found))


def middles(length: int, parts: int) -> list[int]:
    """The frames in the middle of ``parts`` equal parts of ``length`` frames; fewer where the clip is shorter."""
    if parts >= length:
        return list(range(length))
    return [(2 * part + 1) * length // (2 * parts) for part in range(parts)]


def read_samples(path: Path) -> tuple[list[tuple[str, int, str]], Reasons]:
    """(video, 0-based frame, sentence) of the public list of samples, and row -> reason for what can't be used."""
    content = files.read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path.name} must be a list of [video, frame picture, mask, frames, sentence]")
    rows = []
    bad = {}
    for number, row in enumerate(content):
        try:
            rows.append(_sample(row))
        except ValueError as error:
            bad[f"{path.name}[{number}]"] = str(error)
    return rows, bad


def read_masks(path: Path) -> np.ndarray:
    """The person in each frame, (T, H, W) bool, of a puppet_mask.mat of MATLAB 5 or 7.3."""
    masks = files.matlab_array(path, "part_mask")
    if masks.ndim == 2:
        masks = masks[..., np.newaxis]  # MATLAB drops a last axis of length one
    if masks.ndim != 3 or not masks.size:
        raise ValueError(f"{path.name}: part_mask has the shape {masks.shape}, (H, W, T) expected")
    return np.ascontiguousarray(masks.transpose(2, 0, 1)) > 0


def _annotation(mask: np.ndarray, action: int) -> Annotation:
    seen = int(mask.any())
    masks = mask[np.newaxis][:seen]
    return Annotation(
        labels=np.where(mask, PERSON * JHMDB.stride + action, 0).astype(np.uint8),
        actors=np.full(seen, PERSON, np.uint8),
        actions=((action,),) * seen,
        boxes=files.mask_boxes(masks),
        masks=masks,
        instances=np.zeros(seen, np.int64),
    )


def _sample(row: Any) -> tuple[str, int, str]:
    if not isinstance(row, list) or len(row) != 5 or not all(isinstance(row[i], str) for i in (0, 1, 4)):
        raise ValueError("not [video, frame picture, mask, frames, sentence]")
    # Only the picture's number is used: the paths are those of another machine.
    number, sentence = PurePosixPath(row[1]).stem, " ".join(row[4].split())
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) > 0):
        raise ValueError(f"picture {number[:80]!r} is no frame's number")
    if not sentence.isprintable():
        raise ValueError("the sentence is no text")
    return check_video_id(row[0]), int(number) - 1, sentence
