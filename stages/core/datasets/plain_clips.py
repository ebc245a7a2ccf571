"""Reads a folder of plain clips: video files, and folders of pictures, at any depth; nothing is annotated.

A clip's id is its path below the folder, without suffix, with ``__`` between the parts.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.core.datasets.files import frame_pictures, printable
from stages.core.datasets.labels import A2D, LabelSpace
from stages.core.datasets.release import Annotation, ClipRow, Reasons, check_video_id
from stages.core.packs.frames import PICTURES

VIDEOS = frozenset(
    {
        ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".mts",
        ".m2ts",
    }
)  # fmt: skip


@dataclass(frozen=True)
class ClipFolder:
    """The clips at ``folder``; every one is test, because nobody says what is in it."""

    folder: Path
    label_space: LabelSpace = A2D

    def check(self) -> None:
        """Raise ``ValueError`` where there is no clip."""
        self.clips()

    def clips(self) -> tuple[list[ClipRow], Reasons]:
        """Every video file and every folder of pictures, by path. Hidden files are none."""
        rows: dict[str, ClipRow] = {}
        bad: Reasons = {}
        for path in sorted(_found(self.folder, bad)):
            try:
                row = self._clip_row(path)
            except ValueError as error:
                bad[printable(str(path))] = str(error)
                continue
            if row.video in rows:
                bad[str(path)] = f"its id `{row.video}` is that of {rows[row.video].path}, which counts; rename one"
                continue
            rows[row.video] = row
        if not rows:
            reason = next(iter(bad.values()), f"looked for {', '.join(sorted(VIDEOS))} and folders of pictures")
            raise ValueError(f"{self.folder.absolute()} holds no usable clip ({reason})")
        return list(rows.values()), bad

    def annotation_files(self, row: ClipRow) -> list[Path]:
        """None."""
        return []

    def annotations(self, row: ClipRow) -> Iterator[tuple[int, Annotation | str]]:
        """None."""
        return iter(())

    def sentences(self) -> tuple[list[tuple[str, int, str]], Reasons]:
        """None."""
        return [], {}

    def _clip_row(self, path: PurePosixPath) -> ClipRow:
        if path == PurePosixPath("."):
            raise ValueError("pictures beside the clips; put the frames of a clip into a folder of their own")
        if (self.folder / path).is_dir():
            frame_pictures(self.folder / path)
            return ClipRow(check_video_id("__".join(path.parts)), "test", path, annotated=0)
        return ClipRow(check_video_id("__".join(path.with_suffix("").parts)), "test", path, annotated=0)


def _found(folder: Path, bad: Reasons) -> Iterator[PurePosixPath]:
    """Paths below ``folder`` of video files and of folders with pictures and no video file; links are followed."""

    def refuse(error: OSError) -> None:
        bad[printable(str(error.filename))] = f"can't be listed: {error.strerror}"

    seen = set()
    for place, inner, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real in seen:  # a link to a folder above it, or a second one to the same place
            continue
        seen.add(real)
        suffixes = {name: Path(name).suffix.lower() for name in files if not name.startswith(".")}
        here = PurePosixPath(Path(place).relative_to(folder))
        videos = [name for name, suffix in suffixes.items() if suffix in VIDEOS]
        yield from (here / name for name in videos)
        pictures = [name for name, suffix in suffixes.items() if suffix in PICTURES]
        if pictures and videos:
            bad[printable(str(here / min(pictures)))] = "pictures beside video files are no clip; give them a folder"
        elif pictures:
            yield here
