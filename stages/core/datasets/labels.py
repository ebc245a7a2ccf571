"""Label spaces: who can be there (actor) and what they can do (action), data set by data set.

A2D's ids are ``actor * 10 + action``: 0 is background, 11 adult-climbing, ..., 79 dog-none (Release/README of A2D). 43
of the 63 pairs occur (Xu et al. 2015); with background there are 44 valid ids. In every data set 255 marks a pixel
without a label, and an actor's id with action 0 (10, 20, ...) an actor whose action nobody told.
"""

import colorsys
from collections.abc import Sequence
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


JHMDB_ACTIONS = (
    "brush_hair", "catch", "clap", "climb_stairs", "golf", "jump", "kick_ball", "pick", "pour", "pullup", "push", "run",
    "shoot_ball", "shoot_bow", "shoot_gun", "sit", "stand", "swing_baseball", "throw", "walk", "wave",
)  # fmt: skip

VIDOR_OBJECTS = (
    "adult", "aircraft", "antelope", "baby", "baby_seat", "baby_walker", "backpack", "ball/sports_ball", "bat", "bear",
    "bench", "bicycle", "bird", "bottle", "bread", "bus/truck", "cake", "camel", "camera", "car", "cat", "cattle/cow",
    "cellphone", "chair", "chicken", "child", "crab", "crocodile", "cup", "dish", "dog", "duck", "electric_fan",
    "elephant", "faucet", "fish", "frisbee", "fruits", "guitar", "hamster/rat", "handbag", "horse", "kangaroo",
    "laptop", "leopard", "lion", "microwave", "motorcycle", "oven", "panda", "penguin", "piano", "pig", "rabbit",
    "racket", "refrigerator", "scooter", "screen/monitor", "sheep/goat", "sink", "skateboard", "ski", "snake",
    "snowboard", "sofa", "squirrel", "stingray", "stool", "stop_sign", "suitcase", "surfboard", "table", "tiger",
    "toilet", "toy", "traffic_light", "train", "turtle", "vegetables", "watercraft",
)  # fmt: skip
VIDOR_ACTIONS = (
    "bite", "caress", "carry", "chase", "clean", "close", "cut", "drive", "feed", "get_off", "get_on", "grab", "hit",
    "hold", "hold_hand_of", "hug", "kick", "kiss", "knock", "lean_on", "lick", "lift", "open", "pat",
    "play(instrument)", "point_to", "press", "pull", "push", "release", "ride", "shake_hand_with", "shout_at", "smell",
    "speak_to", "squeeze", "throw", "touch", "use", "watch", "wave", "wave_hand_to",
)  # fmt: skip
VIDOR_RELATIONS = ("above", "away", "behind", "beneath", "in_front_of", "inside", "next_to", "towards")


@dataclass(frozen=True)
class LabelSpace:
    """Names, ids and colours of one data set's labels; every stage and model takes its class counts from here.

    ``actors`` and ``actions`` name the classes with background first; a joint id is ``actor * stride + action``;
    ``valid_ids`` are the joint ids that can occur, background (0) first. ``colours`` gives the RGB of an id of the
    label maps: joint ids, or actors where ``multi_label`` says that an actor can do several things at once (then a
    label map holds actors, and each action has a mask of its own).
    """

    key: str  # how files name it
    actors: tuple[str, ...]
    actions: tuple[str, ...]
    valid_ids: tuple[int, ...]
    colours: dict[int, tuple[int, int, int]]
    stride: int = 10
    multi_label: bool = False

    @property
    def ids(self) -> int:
        """Joint ids are below this."""
        return len(self.actors) * self.stride

    @cached_property
    def valid(self) -> np.ndarray:
        """(ids,) bool: may this id occur?"""
        mask = np.zeros(self.ids, dtype=bool)
        mask[list(self.valid_ids)] = True
        return mask

    @cached_property
    def valid_actors(self) -> np.ndarray:
        """(P,) actor of each valid id, in the order of ``valid_ids``."""
        return np.array(self.valid_ids) // self.stride

    @cached_property
    def valid_actions(self) -> np.ndarray:
        """(P,) action of each valid id, in the order of ``valid_ids``."""
        return np.array(self.valid_ids) % self.stride

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 RGB of each id; ids that the colour table does not name, and 255, are grey."""
        palette = np.full((256, 3), 128, dtype=np.uint8)
        for label, colour in self.colours.items():
            palette[label] = colour
        return palette

    def name(self, label: int) -> str:
        """``adult-running`` for A2D's 17, ``background`` for 0."""
        if label == 0:
            return "background"
        return f"{self.actors[label // self.stride]}-{self.actions[label % self.stride]}"

    def require_known(self, labels: np.ndarray, *, where: str) -> None:
        """Raise ``ValueError`` that lists the ids in ``labels`` that are neither a pair, background nor ``IGNORE``."""
        unknown = [int(i) for i in np.unique(labels) if i != IGNORE and int(i) not in self.colours]
        if unknown:
            first, last = sorted(self.colours)[1], max(self.colours)
            raise ValueError(
                f"{where}: unknown label ids {unknown}; ids are actor * {self.stride} + action (0, {first} to {last}) "
                f"or {IGNORE}"
            )


def label_space(key: str) -> LabelSpace:
    """The label space of ``key``. Raises ``ValueError`` that names those there are."""
    if key not in LABEL_SPACES:
        raise ValueError(f"no label space `{key}`; there are {', '.join(LABEL_SPACES)}")
    return LABEL_SPACES[key]


def _hues(ids: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Black for 0, and for the others hues that go round once, bright and dark in turn."""
    colours = {0: (0, 0, 0)}
    for position, label in enumerate(ids):
        red, green, blue = colorsys.hsv_to_rgb(position / len(ids), 0.85, 1.0 if position % 2 == 0 else 0.6)
        colours[label] = (round(255 * red), round(255 * green), round(255 * blue))
    return colours


def _vidor(key: str, predicates: tuple[str, ...]) -> LabelSpace:
    """Boxes of 80 kinds of object. Any of them may do anything, and several things at once (Shang et al. 2019)."""
    actors, actions = ("background", *VIDOR_OBJECTS), ("background", *predicates)
    stride = len(actions)
    pairs = [actor * stride + action for actor in range(1, len(actors)) for action in range(1, stride)]
    colours = _hues(range(1, len(actors)))
    return LabelSpace(key, actors, actions, (0, *pairs), colours, stride=stride, multi_label=True)


__all__ = [
    "A2D", "ACTIONS", "ACTORS", "COLOURS", "IGNORE", "JHMDB", "LABEL_SPACES", "VALID_IDS", "VIDOR", "VIDOR_PREDICATES",
    "LabelSpace", "label_space",
]  # fmt: skip

A2D = LabelSpace("a2d", actors=ACTORS, actions=ACTIONS, valid_ids=VALID_IDS, colours=COLOURS)
_JHMDB_IDS = range(len(JHMDB_ACTIONS) + 2, 2 * len(JHMDB_ACTIONS) + 2)
JHMDB = LabelSpace(
    "jhmdb",
    actors=("background", "person"),
    actions=("background", *JHMDB_ACTIONS),
    valid_ids=(0, *_JHMDB_IDS),
    colours=_hues(_JHMDB_IDS),
    stride=len(JHMDB_ACTIONS) + 1,
)
"""21 actions of one person (Jhuang et al. 2013): ids 23 to 43."""
VIDOR = _vidor("vidor", VIDOR_ACTIONS)
VIDOR_PREDICATES = _vidor("vidor-predicates", tuple(sorted((*VIDOR_ACTIONS, *VIDOR_RELATIONS))))
"""The 8 spatial relations beside the 42 actions, as SSA2D's released code trains."""

LABEL_SPACES = {space.key: space for space in (A2D, JHMDB, VIDOR, VIDOR_PREDICATES)}
