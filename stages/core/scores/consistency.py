"""Is an actor labelled as doing one thing? What Dang et al. 2018 claim for region masks (sections 1 and 4, figure 4a).

Looked at is every actor of the ground truth, at the pixels of its mask that the prediction gives an action (those it
calls background have none), in percent:

    found       actors with such a pixel, of all actors
    single      actors whose such pixels have one action, all of them, of those found
    purity      mean share of the most frequent action among such pixels, over those found

The action need not be the right one. Where actors overlap the smaller one lies on top, as in label maps, so that a
pixel is one actor's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from stages.core.scores import resampling
from stages.core.scores.maps import Prediction, Truth


@dataclass(frozen=True)
class Evidence:
    """Sums of each clip, (clips, 4): actors, those found, those with a single action, and the purities' sum."""

    clips: Sequence[str]
    sums: np.ndarray

    def measure(self, weights: np.ndarray) -> resampling.Values:
        """``found``, ``single`` and ``purity`` in percent; NaN where there is no actor, or none was found."""
        actors, found, single, purity = (weights @ self.sums).tolist()
        return {
            "found": 100 * found / actors if actors else float("nan"),
            "single": 100 * single / found if found else float("nan"),
            "purity": 100 * purity / found if found else float("nan"),
        }

    def joined(self, other: Self) -> Self:
        """The clips of both."""
        return type(self)([*self.clips, *other.clips], np.concatenate([self.sums, other.sums]))


def compare(truth: Truth, prediction: Prediction, *, kind: str = "joint", count_missing: bool = False) -> Evidence:
    """What ``prediction`` says of the actors of ``truth``, by its joint map or by the ``action`` head's own.

    Raises ``ValueError`` where it has no such map, and for a frame that was not predicted, unless ``count_missing``:
    then the frame is left out.
    """
    if truth.label_space.multi_label:
        raise ValueError("an actor does several things at once in this data set: it has no single action")
    clips, sums = [], []
    for video in truth.videos:
        counted = []
        for frame in truth.annotated(video):
            maps = prediction.maps(video, frame)
            if maps is None and count_missing:
                continue
            if maps is None or kind not in maps:
                raise ValueError(f"{video}, frame {frame + 1}: no {kind} map was predicted; make it")
            actions = maps["joint"] % truth.label_space.stride if kind == "joint" else maps[kind]
            counted.append(count(truth.actors(video, frame), actions))
        if counted:
            clips.append(video)
            sums.append(np.sum(counted, axis=0))
    if not clips:
        raise ValueError("no annotated frame has a prediction: nothing can be scored")
    return Evidence(clips, np.stack(sums))


def count(masks: Sequence[np.ndarray], actions: np.ndarray) -> np.ndarray:
    """(4,) as in ``Evidence.sums``, of the actors with ``masks`` (H, W) bool in one map of ``actions`` (H, W), 0 for
    none."""
    free = np.ones(actions.shape, bool)
    sums = np.zeros(4)
    for mask in sorted(masks, key=np.count_nonzero):
        pixels = actions[mask & free]
        free &= ~mask
        of_actions = np.bincount(pixels[pixels > 0])
        sums[0] += 1
        if of_actions.any():
            sums[1:] += 1, np.count_nonzero(of_actions) == 1, of_actions.max() / of_actions.sum()
    return sums
