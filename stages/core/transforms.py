"""Transforms of a window: the same for its frames, flow and labels.

Flow is a vector in pixels: it is scaled with the frame, and its x component is negated when the frame is flipped.
"""

import cv2
import numpy as np

from stages.core.dataset import Sample
from stages.core.labels import IGNORE


def resize(sample: Sample, height: int, width: int) -> Sample:
    """To (height, width): frames and flow bilinear (averaged when shrunk), labels nearest, flow's vectors scaled."""
    old_height, old_width = sample.frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return sample
    smooth = cv2.INTER_AREA if height < old_height else cv2.INTER_LINEAR
    frames = np.stack([cv2.resize(frame, (width, height), interpolation=smooth) for frame in sample.frames])
    labels = np.stack(
        [cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for label in sample.labels]
    )
    flow = sample.flow
    if flow is not None:
        scale = np.array((width / old_width, height / old_height), np.float32)
        flow = np.stack([cv2.resize(field, (width, height), interpolation=smooth) for field in flow]) * scale
    return Sample(frames=frames, labels=labels, flow=flow)


def to_height(sample: Sample, height: int | None) -> Sample:
    """To ``height`` with the aspect kept; unchanged for None."""
    if height is None:
        return sample
    old_height, old_width = sample.frames.shape[1:3]
    return resize(sample, height, max(1, round(old_width * height / old_height)))


def flip(sample: Sample) -> Sample:
    """Left to right."""
    flow = sample.flow
    if flow is not None:
        flow = flow[:, :, ::-1] * np.array((-1, 1), np.float32)
    return Sample(frames=sample.frames[:, :, ::-1], labels=sample.labels[:, :, ::-1], flow=flow)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """The rectangle from (top, left); what lies outside the frame is zero, at rest and unlabelled."""

    def cut(array: np.ndarray, fill: int) -> np.ndarray:
        result = np.full((array.shape[0], height, width, *array.shape[3:]), fill, array.dtype)
        rows = slice(max(top, 0), min(top + height, array.shape[1]))
        columns = slice(max(left, 0), min(left + width, array.shape[2]))
        result[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = array[
            :, rows, columns
        ]
        return result

    flow = None if sample.flow is None else cut(sample.flow, 0)
    return Sample(frames=cut(sample.frames, 0), labels=cut(sample.labels, IGNORE), flow=flow)


def augment(sample: Sample, random: np.random.Generator, *, size: tuple[int, int]) -> Sample:
    """A random scale (0.75 to 1.35), crop of ``size`` (height, width), flip and colour jitter."""
    scale = float(np.exp(random.uniform(np.log(0.75), np.log(1.35))))
    height, width = (max(1, round(length * scale)) for length in sample.frames.shape[1:3])
    sample = resize(sample, height, width)
    top = int(random.integers(min(0, height - size[0]), max(0, height - size[0]) + 1))
    left = int(random.integers(min(0, width - size[1]), max(0, width - size[1]) + 1))
    sample = crop(sample, top, left, *size)
    if random.random() < 0.5:
        sample = flip(sample)
    return Sample(frames=jitter(sample.frames, random), labels=sample.labels, flow=sample.flow)


def jitter(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and colour of a whole window, the same in every frame: (T, H, W, 3) uint8."""
    gain = random.uniform(0.8, 1.25) * random.uniform(0.75, 1.25, 3)
    shift = random.uniform(-20, 20) + random.uniform(-12, 12, 3)
    mixed = frames.astype(np.float32)
    if random.random() < 0.2:
        mixed = np.repeat(mixed.mean(-1, keepdims=True), 3, axis=-1)
    return np.clip(mixed * gain.astype(np.float32) + shift.astype(np.float32), 0, 255).astype(np.uint8)
