"""Pixels that carry a set of labels: which classes a truth and a prediction share, counted exactly and without a mask a
class.

A frame is cut into stretches of pixels, down the columns as COCO's RLE runs, along which nothing changes: neither of
the two actor maps, no action's mask, nor whose pixels they are. Boxes give some thousand stretches of a frame of two
million pixels, and everything is counted on those.

Axes: S stretches, K actions, A actors. A cell (actor, action) of a pair is its joint id; (0, 0) is background.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from stages.core.datasets.labels import IGNORE, LabelSpace
from stages.core.scores import sizes

RIGHT, TRUE, FOUND = range(3)
"""Pixels of a class in both, in the truth, in the prediction: the statistics counted."""
OWNERS = 1 + len(sizes.SIZES)
"""Whose pixels: 0 nobody's, else 1 + the size of the instance (``sizes.SIZES``)."""


@dataclass(frozen=True)
class LabelSets:
    """Who is at each pixel of a frame, (H, W) uint8, and each action's pixels: counts of a COCO RLE."""

    actors: np.ndarray
    actions: Mapping[int, bytes]


@dataclass(frozen=True)
class Counts:
    """Pixels of every class by statistic and owner: actors (3, 4, A), actions (3, 4, K) and pairs (3, 4, A, K)."""

    actors: np.ndarray
    actions: np.ndarray
    pairs: np.ndarray

    def flat(self) -> np.ndarray:
        """(3, 4, A + K + A * K), in this order."""
        return np.concatenate([self.actors, self.actions, self.pairs.reshape(3, OWNERS, -1)], axis=2)


def run_ends(counts: bytes, *, pixels: int) -> np.ndarray:
    """(R,) where the runs of a COCO RLE of ``pixels`` pixels end; the first run is outside of the mask.

    Written here because pycocotools decodes to pixels only, and reads past the end of an RLE that is too short. Raises
    ``ValueError`` for an RLE of another number of pixels.
    """
    symbols = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((symbols & 0x20) == 0)  # of a number: its last five bits say that no more follow
    if not len(symbols) or symbols.min() < 0 or symbols.max() > 0x3F or symbols[-1] & 0x20:
        raise ValueError("a mask is no COCO RLE")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(symbols)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((symbols & 0x1F) << (5 * place), starts)
    numbers -= np.where(symbols[ends] & 0x10, 1 << (5 * (place[ends] + 1)), 0)
    # From the fourth on, a run is written as its difference to the run two before.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0 or numbers.sum() != pixels:
        raise ValueError(f"a mask of {numbers.sum()} pixels in a frame of {pixels}; make it for the frame's resolution")
    return np.cumsum(numbers)


def count(truth: LabelSets, predicted: LabelSets, owners: np.ndarray, labels: LabelSpace) -> Counts:
    """What ``truth`` and ``predicted`` share in one frame; pixels whose actor nobody labelled count nowhere.

    ``owners`` (H, W) uint8 below ``OWNERS``. A pixel without an action is background among actions and pairs, whoever
    is there. Raises ``ValueError`` for another resolution and for ids that do not exist.
    """
    if predicted.actors.shape != truth.actors.shape:
        raise ValueError(f"prediction of {predicted.actors.shape} for a truth of {truth.actors.shape}; resize it")
    pixels = truth.actors.size
    ends = [
        {action: run_ends(counts, pixels=pixels) for action, counts in sets.actions.items()}
        for sets in (truth, predicted)
    ]
    columns = [cv2.transpose(pixel_map).ravel() for pixel_map in (truth.actors, predicted.actors, owners)]
    is_start = np.zeros(pixels + 1, bool)  # runs may end after the last pixel
    for column in columns:
        is_start[1:pixels] |= column[1:] != column[:-1]
    for end in (end for by_action in ends for end in by_action.values()):
        is_start[end] = True
    is_start[0] = True
    starts = np.flatnonzero(is_start[:pixels])
    lengths = np.diff(starts, append=pixels)
    labelled = columns[0][starts] != IGNORE
    starts, lengths = starts[labelled], lengths[labelled]
    true_actor, found_actor, owner = (column[starts].astype(np.int64) for column in columns)
    for actor, name in ((true_actor, "truth"), (found_actor, "prediction")):
        if actor.max(initial=0) >= len(labels.actors):
            raise ValueError(f"actor {actor.max()} in the {name}; actors are 0 to {len(labels.actors) - 1}")
    true, found = (_members(by_action, starts, labels) for by_action in ends)
    same = true_actor == found_actor
    nowhere = np.zeros(len(starts), bool)

    def by_actor(actor: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(4, A) pixels, of stretches that count ``weights``."""
        cells = np.bincount(owner * len(labels.actors) + actor, weights, minlength=OWNERS * len(labels.actors))
        return cells.reshape(OWNERS, -1)

    counted = ((true_actor, lengths * same), (true_actor, lengths), (found_actor, lengths))
    actors = np.stack([by_actor(actor, weights) for actor, weights in counted])
    actions = np.zeros((3, OWNERS, len(labels.actions)))
    pairs = np.zeros((3, OWNERS, len(labels.actors), labels.stride))
    for action in true.keys() | found.keys():
        in_truth, in_prediction = true.get(action, nowhere), found.get(action, nowhere)
        right = in_truth & in_prediction
        pairs[RIGHT, :, :, action] = by_actor(true_actor, lengths * (right & same))
        pairs[TRUE, :, :, action] = by_actor(true_actor, lengths * in_truth)
        pairs[FOUND, :, :, action] = by_actor(found_actor, lengths * in_prediction)
        actions[:, :, action] = pairs[..., action].sum(2)
        actions[RIGHT, :, action] = np.bincount(owner, lengths * right, minlength=OWNERS)  # whoever does it
    pairs[..., 0] = 0
    pairs[:, :, 0, 0] = actions[:, :, 0]
    return Counts(actors, actions, pairs)


def _members(ends: Mapping[int, np.ndarray], starts: np.ndarray, labels: LabelSpace) -> dict[int, np.ndarray]:
    """Action -> (S,) bool: is it done there? 0 where none is."""
    found = {}
    for action, at in ends.items():
        if not 0 < action < len(labels.actions):
            raise ValueError(f"action {action}; actions are 1 to {len(labels.actions) - 1}")
        found[action] = np.searchsorted(at, starts, side="right") % 2 == 1
    done = np.logical_or.reduce([np.zeros(len(starts), bool), *found.values()])
    return found | {0: ~done}
