"""Transforms of a window: the same for its frames, flow, labels, masks and sentence.

Flow is a vector in pixels: it is scaled with the frame, and its x component is negated when the frame is flipped; a
flipped sentence says `left` for `right`.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from stages.core.batches.photometry import jitter
from stages.core.batches.windows import Sample
from stages.core.datasets.labels import IGNORE

SCALES = (0.75, 1.35)
"""Of `augment`: a crop shows up to so much less or more of the frame."""

Transform = Callable[[np.ndarray], np.ndarray]


def resize(sample: Sample, height: int, width: int) -> Sample:
    """To (height, width): frames and flow bilinear (averaged when shrunk), labels nearest, flow's vectors scaled."""
    old_height, old_width = sample.frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return sample
    smooth = cv2.INTER_AREA if height < old_height else cv2.INTER_LINEAR

    def to(interpolation: int) -> Transform:
        return lambda stack: np.stack(
            [cv2.resize(array, (width, height), interpolation=interpolation) for array in stack]
        )

    scale = np.array((width / old_width, height / old_height), np.float32)
    return _apply(
        sample, frames=to(smooth), labels=to(cv2.INTER_NEAREST_EXACT), flow=lambda flow: to(smooth)(flow) * scale
    )


def to_height(sample: Sample, height: int | None) -> Sample:
    """To ``height`` with the aspect kept; unchanged for None."""
    if height is None:
        return sample
    old_height, old_width = sample.frames.shape[1:3]
    return resize(sample, height, max(1, round(old_width * height / old_height)))


def to_fit(sample: Sample, *, height: int | None, size: tuple[int, int]) -> Sample:
    """To ``height`` (None: its own) with the aspect kept, or as much less as the frame needs to lie in ``size``."""
    old_height, old_width = sample.frames.shape[1:3]
    return to_height(sample, max(1, min(height or old_height, size[0], size[1] * old_height // old_width)))


def flip(sample: Sample) -> Sample:
    """Left to right, in the sentence too."""
    flipped = _apply(
        sample,
        frames=lambda frames: frames[:, :, ::-1],
        labels=lambda labels: labels[:, :, ::-1],
        flow=_mirror,
    )
    return flipped if sample.sentence is None else replace(flipped, sentence=swap_sides(sample.sentence))


def _mirror(flow: np.ndarray) -> np.ndarray:
    mirrored = np.ascontiguousarray(flow[:, :, ::-1])
    mirrored[..., 0] *= -1
    return mirrored


def swap_sides(sentence: str) -> str:
    """`left` for `right` and the other way round, capitals kept; in `leftmost`, `rightward` and `left-hand` too, not in
    `upright`."""
    other = {"left": "right", "right": "left"}

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        swapped = other[word.lower()]
        if word.isupper():
            return swapped.upper()
        return swapped.capitalize() if word[0].isupper() else swapped

    return re.sub(r"\b(?:left|right)(?=(?:most|wards?|hand)?\b)", swap, sentence, flags=re.IGNORECASE)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """The rectangle from (top, left); what lies outside the frame is zero, at rest and unlabelled."""

    def cut(fill: int) -> Transform:
        def transform(array: np.ndarray) -> np.ndarray:
            rows = slice(max(top, 0), min(top + height, array.shape[1]))
            columns = slice(max(left, 0), min(left + width, array.shape[2]))
            inside = array[:, rows, columns]
            if inside.shape[1:3] == (height, width):
                return inside
            result = np.full((len(array), height, width, *array.shape[3:]), fill, array.dtype)
            result[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
            return result

        return transform

    return _apply(sample, frames=cut(0), labels=cut(IGNORE), flow=cut(0), actions=cut(0))


def augment(sample: Sample, random: np.random.Generator, *, height: int | None, size: tuple[int, int]) -> Sample:
    """A random scale (0.75 to 1.35), crop of ``size`` (height, width), flip and colour jitter.

    ``height`` is that of the whole frame at scale 1 (None: its own). The crop is cut out first and then resized, so
    that no pixel outside it is touched; its sides are whole pixels of the stored frame.
    """
    full_height, full_width = sample.frames.shape[1:3]
    scale = float(np.exp(random.uniform(*np.log(SCALES)))) * (height or full_height) / full_height
    rows, columns = (max(1, round(length / scale)) for length in size)
    top = int(random.integers(min(0, full_height - rows), max(0, full_height - rows) + 1))
    left = int(random.integers(min(0, full_width - columns), max(0, full_width - columns) + 1))
    sample = _flip(resize(crop(sample, top, left, rows, columns), *size), random)
    return replace(sample, frames=jitter(sample.frames, random))


def augment_whole(sample: Sample, random: np.random.Generator, *, height: int | None, size: tuple[int, int]) -> Sample:
    """A random flip of the whole frame, which ``to_fit`` resized and ``crop`` pads to ``size``.

    For windows with a sentence: a crop can cut off who is meant, or leave somebody else as "the left one"; in other
    colours no car is "the red car". Padding lies below and at the right ("frames are padded to have the same size",
    Gavrilyuk et al. 2018, section 3.2).
    """
    return crop(_flip(to_fit(sample, height=height, size=size), random), 0, 0, *size)


def augment_little(sample: Sample, random: np.random.Generator, *, height: int | None, size: tuple[int, int]) -> Sample:
    """A random flip, then a random crop of ``size`` of the frame at ``height`` (Gavrilyuk et al. 2018, section 5.3)."""
    sample = _flip(to_height(sample, height), random)
    free = (length - side for length, side in zip(sample.frames.shape[1:3], size, strict=True))
    top, left = (int(random.integers(min(0, least), max(0, least) + 1)) for least in free)
    return crop(sample, top, left, *size)


def _flip(sample: Sample, random: np.random.Generator) -> Sample:
    return flip(sample) if random.random() < 0.5 else sample


def _apply(
    sample: Sample, *, frames: Transform, labels: Transform, flow: Transform, actions: Transform | None = None
) -> Sample:
    """``labels`` serves label maps and masks and, unless ``actions`` does, each action's masks; all (T, H, W, ...)."""
    each = actions or labels
    return replace(
        sample,
        frames=frames(sample.frames),
        labels=labels(sample.labels),
        flow=None if sample.flow is None else flow(sample.flow),
        actions=None if sample.actions is None else np.stack([each(masks) for masks in sample.actions]),
        mask=None if sample.mask is None else labels(sample.mask),
    )
