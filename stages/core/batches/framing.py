"""How pictures are shown to instance segmenters, in training and prediction."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Framing:
    """How pictures are shown to a segmenter."""

    height: int | None  # frames are resized to this height first, in training and prediction; None: as they are
    crop: tuple[int, int] | None  # of training, at a random scale and in other light; None: whole frames, flipped
    still: tuple[int, int]  # height and width of generated pictures


FRAMINGS = {
    # Of FCIS and Mask R-CNN as published: the networks themselves resize whole frames.
    "paper": Framing(height=None, crop=None, still=(320, 426)),
    "small": Framing(height=128, crop=(128, 160), still=(144, 192)),
}
"""By the size of the segmenter."""
