"""Windows of a packed clip: their frames, labels and flow, centred on an annotated frame or one of many.

Axes: T frames of the window, H height, W width, K actions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from models.base import Window
from stages.core.datasets import sentences
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.labels import IGNORE
from stages.core.packs.flow import ClipFlow
from stages.core.packs.frames import Clip


@dataclass(frozen=True)
class Sample:
    """A window around a labelled frame, with a sentence where one is asked about."""

    frames: np.ndarray  # (T, H, W, 3) uint8 RGB
    labels: np.ndarray  # (T, H, W) uint8, IGNORE where nobody labelled
    flow: np.ndarray | None = None  # (T, H, W, 2) float32 pixels
    actions: np.ndarray | None = None  # multi-label data: (T, K, H, W) uint8, 1 where it is done
    sentence: str | None = None
    mask: np.ndarray | None = None  # (T, H, W) uint8: 1 the actor that the sentence means, 0 else, IGNORE unlabelled


def numbers(frame: int, window: Window) -> list[int]:
    """Frame numbers of the window around ``frame``; some may lie outside the clip (``read`` clamps)."""
    return list(range(frame - window.before, frame + window.after + 1))


def drawn_numbers(frame: int, window: Window, random: np.random.Generator) -> list[int]:
    """Frame numbers of a window for training, with ``frame`` at one of the positions that ``window`` allows."""
    if window.every is None:
        return numbers(frame, window)
    start = frame - int(random.choice(range(0, window.length, window.every)))
    return list(range(start, start + window.length))


def tile(wanted: Sequence[int], *, frames: int, length: int) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Windows of ``length`` frames over a clip of ``frames``, for methods that label all frames of a window.

    Windows start every half length. A frame belongs to the one in which it is nearest the middle; those at the clip's
    two ends to the first and the last. Yields the windows that hold ``wanted`` frames: numbers of the window's frames
    (at the clip's end some may lie outside, ``read`` clamps), the wanted ones of them, their positions in the window.
    """
    stride = max(1, length // 2)
    margin = (length - stride) // 2  # positions at a window's start that are nearer the middle of the window before
    last = max(0, -(-(frames - length) // stride))

    def window_of(frame: int) -> int:
        return min(max((frame - margin) // stride, 0), last)

    for window, of_window in groupby(sorted(wanted), key=window_of):
        start, own = window * stride, list(of_window)
        yield list(range(start, start + length)), own, [frame - start for frame in own]


def window_numbers(frames: int, *, length: int) -> list[list[int]]:
    """Frame numbers of the clips of ``length`` frames whose scores are averaged over a video of ``frames``.

    They lie end to end; the last is moved back to end with the video, and shares frames with the one before it. A
    shorter video is one clip.
    """
    last = max(frames - length, 0)
    starts = [min(start, last) for start in range(0, frames, length)]
    return [clip_numbers(start, length=length, frames=frames) for start in starts]


def clip_numbers(start: int, *, length: int, frames: int) -> list[int]:
    """Frame numbers of the clip of ``length`` frames that begins at ``start`` in a video of ``frames``.

    A shorter video starts again behind its end, as I3D takes it (Carreira and Zisserman 2017, section 3).
    """
    return [number % frames for number in range(start, start + length)]


def read(dataset: Dataset, video: str, frames: Sequence[int], *, labelled: bool = True) -> Sample:
    """``frames`` of ``video``, clamped to the clip; labels of those that are annotated, if ``labelled``."""
    pictures = _open_clip(dataset.clips_folder / f"{video}.arrow").frames(frames)
    labels = np.full(pictures.shape[:3], IGNORE, np.uint8)
    space = dataset.label_space
    actions = None
    if space.multi_label:
        actions = np.zeros((len(frames), len(space.actions), *pictures.shape[1:3]), np.uint8)
    for position, number in enumerate(frames):
        if labelled and dataset.is_annotated(video, number):
            labels[position] = dataset.labels(video, number)
            if actions is not None:
                actions[position] = dataset.actions(video, number)
    flow = None
    if dataset.flow_folder is not None:
        clip = _open_flow(dataset.flow_folder / f"{video}.arrow")
        flow = np.stack([clip.frame(number) for number in frames])
    return Sample(frames=pictures, labels=labels, flow=flow, actions=actions)


def read_sentence(dataset: Dataset, asked: sentences.Sample, frames: Sequence[int]) -> Sample:
    """The same with the sentence of ``asked`` and the mask that it means, at its frame."""
    sample = read(dataset, asked.video, frames)
    mask = np.full(sample.labels.shape, IGNORE, np.uint8)
    mask[list(frames).index(asked.frame)] = coco.decode({"size": [asked.height, asked.width], "counts": asked.mask})
    return Sample(sample.frames, sample.labels, sample.flow, sample.actions, sentence=asked.sentence, mask=mask)


@lru_cache(maxsize=256)
def _open_clip(path: Path) -> Clip:
    """A packed clip, kept open (a memory map)."""
    return Clip(path)


@lru_cache(maxsize=256)
def _open_flow(path: Path) -> ClipFlow:
    """A clip's packed flow, kept open (a memory map)."""
    return ClipFlow(path)
