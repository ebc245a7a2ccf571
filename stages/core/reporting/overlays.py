"""Label maps laid over the frames of a clip for people to look at: colours, contours and a legend, as H.264.

Axes: H height, W width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from stages.core.datasets.labels import LabelSpace

OPACITY = 0.5
"""Share of its label's colour in a pixel."""
WHITE, GREEN = (255, 255, 255), (52, 255, 1)
FONT = cv2.FONT_HERSHEY_SIMPLEX
MOST_NAMES = 6
"""In a frame's legend."""
LINE, LEAST_LINE = 20, 10
"""A line of the legend is a 20th of the frame's height, and has at least 10 pixels."""


@dataclass(frozen=True)
class Legend:
    """What the ids of label maps are called and how they are coloured; 0 is background and is not drawn."""

    names: Mapping[int, str]
    palette: np.ndarray  # (256, 3) uint8 RGB


def of_labels(labels: LabelSpace) -> Legend:
    """The pairs of ``labels``, or its actors where one can do several things at once."""
    names = {label: labels.actors[label] if labels.multi_label else labels.name(label) for label in labels.colours}
    return Legend(names, labels.palette)


def of_sentence(sentence: str) -> Legend:
    """1 for the actor that ``sentence`` means."""
    return Legend({0: "background", 1: sentence}, np.full((256, 3), GREEN, np.uint8))


def draw(picture: np.ndarray, labels: np.ndarray, legend: Legend, *, ranked: Sequence[int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB: ``picture`` under its label map (H, W) uint8.

    Of the ids in the map the first ``MOST_NAMES`` by their order in ``ranked`` are named.
    """
    shown = picture.copy()
    inside = labels > 0
    mixed = (1 - OPACITY) * picture[inside] + OPACITY * legend.palette[labels[inside]]
    shown[inside] = np.rint(mixed).astype(np.uint8)
    present = np.unique(labels[inside]).tolist()
    for label in present:
        contours, _ = cv2.findContours((labels == label).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, contours, -1, WHITE, max(1, len(picture) // 360))
    _write_names(shown, legend, [label for label in ranked if label in present][:MOST_NAMES])
    return shown


def write(path: Path, pictures: Iterable[np.ndarray], *, shape: tuple[int, int], rate: Fraction) -> None:
    """Encode ``pictures`` (H, W, 3) uint8 RGB of ``shape`` (H, W) as H.264, yuv420p, ``rate`` a second.

    yuv420p wants even sides: an odd one gets its last row or column twice.
    """
    below, right = shape[0] % 2, shape[1] % 2
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = shape[0] + below, shape[1] + right
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for picture in pictures:
            even = np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))


def _write_names(shown: np.ndarray, legend: Legend, listed: Sequence[int]) -> None:
    """Into the top left corner, in place: a line a name, behind a field of its colour, on darkened ground."""
    height, width = shown.shape[:2]
    line = max(LEAST_LINE, height // LINE)
    scale = cv2.getFontScaleFromHeight(FONT, line // 2)
    widest = max((cv2.getTextSize(legend.names[label], FONT, scale, 1)[0][0] for label in listed), default=1)
    scale *= min(1, max(1, width - line) / widest)
    ground = shown[: line * len(listed), : line + widest]
    ground //= 2
    for row, label in enumerate(listed):
        top = row * line
        shown[top + 1 : top + line - 1, 1 : line - 1] = legend.palette[label]
        cv2.putText(shown, legend.names[label], (line, top + line * 3 // 4), FONT, scale, WHITE, 1, cv2.LINE_AA)
