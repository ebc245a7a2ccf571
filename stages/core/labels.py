"""The label space of A2D: who is there (actor) and what they do (action).

A label id is ``actor * 10 + action``: 0 is background, 11 adult-climbing, ..., 79 dog-none (Release/README of A2D).
43 of the 63 pairs occur (Xu et al. 2015); with background there are 44 valid ids. 255 marks a pixel without a label.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models import IGNORE

ACTORS = ("background", "adult", "baby", "ball", "bird", "car", "cat", "dog")
ACTIONS = (
    "background", "climbing", "crawling", "eating", "flying", "jumping", "rolling", "running", "walking", "none",
)  # fmt: skip

VALID_IDS = (
    0, 11, 12, 13, 15, 16, 17, 18, 19, 21, 22, 26, 28, 29, 34, 35, 36, 39, 41, 43, 44, 45,
    46, 48, 49, 54, 55, 56, 57, 59, 61, 63, 65, 66, 67, 68, 69, 72, 73, 75, 76, 77, 78, 79,
)  # fmt: skip

COLOURS = {
    0: (0, 0, 0), 11: (52, 1, 1), 12: (103, 1, 1), 13: (154, 1, 1), 14: (205, 1, 1), 15: (255, 1, 1),
    16: (255, 51, 51), 17: (255, 103, 103), 18: (255, 154, 154), 19: (255, 205, 205), 21: (52, 46, 1),
    22: (103, 92, 1), 23: (154, 138, 1), 24: (205, 184, 1), 25: (255, 230, 1), 26: (255, 235, 51),
    27: (255, 240, 103), 28: (255, 245, 154), 29: (255, 250, 205), 31: (11, 52, 1), 32: (21, 103, 1),
    33: (31, 154, 1), 34: (41, 205, 1), 35: (52, 255, 1), 36: (92, 255, 51), 37: (133, 255, 103),
    38: (174, 255, 154), 39: (215, 255, 205), 41: (1, 52, 36), 42: (1, 103, 72), 43: (1, 154, 108),
    44: (1, 205, 143), 45: (1, 255, 179), 46: (51, 255, 194), 47: (103, 255, 210), 48: (154, 255, 225),
    49: (205, 255, 240), 51: (1, 21, 52), 52: (1, 41, 103), 53: (1, 62, 154), 54: (1, 82, 205), 55: (1, 103, 255),
    56: (51, 133, 255), 57: (103, 164, 255), 58: (154, 194, 255), 59: (205, 225, 255), 61: (26, 1, 52),
    62: (52, 1, 103), 63: (77, 1, 154), 64: (103, 1, 205), 65: (128, 1, 255), 66: (154, 51, 255),
    67: (179, 103, 255), 68: (205, 154, 255), 69: (230, 205, 255), 71: (52, 1, 31), 72: (103, 1, 62),
    73: (154, 1, 92), 74: (205, 1, 123), 75: (255, 1, 153), 76: (255, 51, 174), 77: (255, 103, 194),
    78: (255, 154, 215), 79: (255, 205, 235),
}  # fmt: skip
"""RGB of every id in A2D's colour maps (Annotations/col), the 20 invalid pairs included."""


@dataclass(frozen=True)
class LabelSpace:
    """Names, ids and colours of one data set's labels; every stage and model takes its class counts from here.

    ``actors`` and ``actions`` name the classes with background first; ``valid_ids`` are the joint ids that can occur,
    background (0) first; ``colours`` gives the RGB of a joint id in pictures.
    """

    actors: tuple[str, ...]
    actions: tuple[str, ...]
    valid_ids: tuple[int, ...]
    colours: dict[int, tuple[int, int, int]]

    @cached_property
    def valid(self) -> np.ndarray:
        """(80,) bool: may this id occur?"""
        mask = np.zeros(len(self.actors) * 10, dtype=bool)
        mask[list(self.valid_ids)] = True
        return mask

    @cached_property
    def valid_actors(self) -> np.ndarray:
        """(44,) actor of each valid id, in the order of ``valid_ids``."""
        return np.array(self.valid_ids) // 10

    @cached_property
    def valid_actions(self) -> np.ndarray:
        """(44,) action of each valid id, in the order of ``valid_ids``."""
        return np.array(self.valid_ids) % 10

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 RGB of each id; ids that the colour table does not name, and 255, are grey."""
        palette = np.full((256, 3), 128, dtype=np.uint8)
        for label, colour in self.colours.items():
            palette[label] = colour
        return palette

    def name(self, label: int) -> str:
        """``adult-running`` for 17, ``background`` for 0."""
        if label == 0:
            return "background"
        return f"{self.actors[label // 10]}-{self.actions[label % 10]}"

    def require_known(self, labels: np.ndarray, *, where: str) -> None:
        """Raise ``ValueError`` that lists the ids in ``labels`` that are neither a pair, background nor ``IGNORE``."""
        unknown = [int(i) for i in np.unique(labels) if i != IGNORE and int(i) not in self.colours]
        if unknown:
            raise ValueError(f"{where}: unknown label ids {unknown}; ids are actor * 10 + action (0, 11 to 79) or 255")


__all__ = ["A2D", "ACTIONS", "ACTORS", "COLOURS", "IGNORE", "VALID_IDS", "LabelSpace"]

A2D = LabelSpace(actors=ACTORS, actions=ACTIONS, valid_ids=VALID_IDS, colours=COLOURS)
