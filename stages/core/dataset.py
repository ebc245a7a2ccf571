"""The data set as stages see it: annotated frames whose clip could be decoded, read window by window.

Axes: T frames of the window, H height, W width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import items, tables
from stages.core.flow import ClipFlow
from stages.core.labels import IGNORE
from stages.core.params import Section
from stages.core.video import Clip


class Parameters(Section):
    """Section ``index`` of params.yaml: the data set that a run uses."""

    dataset: str  # its name in every table


@dataclass(frozen=True)
class AnnotatedFrame:
    """One labelled frame."""

    video: str
    frame: int
    labels: bytes  # PNG of uint8 (H, W)


@dataclass(frozen=True)
class Sample:
    """A window around a labelled frame: frames (T, H, W, 3) uint8 RGB, labels (T, H, W) uint8, IGNORE where nobody
    labelled; flow (T, H, W, 2) float32 pixels, or None."""

    frames: np.ndarray
    labels: np.ndarray
    flow: np.ndarray | None


@dataclass(frozen=True)
class Dataset:
    """Annotated frames of one split, and what of them can't be used."""

    split: str
    frames: tuple[AnnotatedFrame, ...]
    promised: int  # annotated frames that the release promises for this split
    clips_folder: Path
    flow_folder: Path | None = None
    missing: Mapping[str, str] = field(default_factory=dict)  # video/frame -> why it is left out

    @property
    def videos(self) -> list[str]:
        """Clips with at least one usable annotated frame, in order."""
        return list(dict.fromkeys(frame.video for frame in self.frames))

    @cached_property
    def _by_video(self) -> dict[str, dict[int, bytes]]:
        found: dict[str, dict[int, bytes]] = {}
        for frame in self.frames:
            found.setdefault(frame.video, {})[frame.frame] = frame.labels
        return found

    def annotated(self, video: str) -> list[int]:
        """Annotated frame numbers of ``video``."""
        return sorted(self._by_video[video])

    def labels(self, video: str, frame: int) -> np.ndarray:
        """(H, W) uint8 label map of an annotated frame."""
        return tables.decode_png(self._by_video[video][frame])

    def window(self, video: str, numbers: Sequence[int], *, labelled: bool = True) -> Sample:
        """Frames ``numbers`` of ``video``, clamped to the clip; labels of those that are annotated, if ``labelled``."""
        frames = open_clip(self.clips_folder / f"{video}.arrow").frames(numbers)
        labels = np.full(frames.shape[:3], IGNORE, np.uint8)
        for position, number in enumerate(numbers):
            if labelled and number in self._by_video[video]:
                labels[position] = self.labels(video, number)
        flow = None
        if self.flow_folder is not None:
            clip = open_flow(self.flow_folder / f"{video}.arrow")
            flow = np.stack([clip.frame(number) for number in numbers])
        return Sample(frames=frames, labels=labels, flow=flow)


def load(index: Path, frames: Path, *, split: str, flow: Path | None = None) -> Dataset:
    """The annotated frames of ``split`` that can be used, from the outputs of index, frames and optical_flow.

    A frame whose clip (or its flow) is in quarantine, or that lies past the clip's decoded end, is left out and
    counted in ``missing``.
    """
    clips = tables.read_parquet(index / "clips.parquet", tables.CLIPS).to_pylist()
    decoded = items.read_manifest(frames)
    with_flow = items.read_manifest(flow) if flow is not None else decoded
    usable = []
    missing = {}
    for row in tables.read_parquet(index / "frames.parquet", tables.FRAMES).to_pylist():
        if row["split"] != split:
            continue
        name = f"{row['video']}/{row['frame'] + 1:05d}"
        if row["video"] not in decoded:
            missing[name] = "its clip could not be decoded"
        elif row["video"] not in with_flow:
            missing[name] = "its clip has no optical flow"
        elif reason := _misfit(row, open_clip(frames / "clips" / f"{row['video']}.arrow")):
            missing[name] = reason
        else:
            usable.append(AnnotatedFrame(row["video"], row["frame"], row["labels"]))
    return Dataset(
        split=split,
        frames=tuple(usable),
        promised=sum(clip["annotated"] for clip in clips if clip["split"] == split),
        clips_folder=frames / "clips",
        flow_folder=None if flow is None else flow / "clips",
        missing=missing,
    )


def _misfit(row: Mapping[str, Any], clip: Clip) -> str:
    """Why an annotation does not fit its clip; empty where it does."""
    if row["frame"] >= len(clip):
        return "past the clip's last decoded frame"
    shape = tables.decode_png(row["labels"]).shape
    if shape != (clip.height, clip.width):
        return f"labels of {shape[0]} x {shape[1]} for frames of {clip.height} x {clip.width}"
    return ""


@lru_cache(maxsize=256)
def open_clip(path: Path) -> Clip:
    """A packed clip, kept open (a memory map)."""
    return Clip(path)


@lru_cache(maxsize=256)
def open_flow(path: Path) -> ClipFlow:
    """A clip's packed flow, kept open (a memory map)."""
    return ClipFlow(path)
