"""What every method has in common: the batch it is given, the predictions it gives, how pairs are scored.

A method is one module with ``Config`` (``paper`` and ``small`` are two values of it), ``build(config, labels)`` and a
network with ``loss(batch) -> dict`` (the key ``loss`` is what is minimised) and ``predict(batch) -> Predictions``.
Axes: B batch, T frames, H height, W width, K classes, P valid pairs (44 with background).
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from models import IGNORE


class Labels(Protocol):
    """What a method needs to know of a data set's labels (``stages.core.datasets.labels.LabelSpace`` is one)."""

    actors: tuple[str, ...]  # background first
    actions: tuple[str, ...]
    stride: int  # of joint ids: actor * stride + action
    valid_ids: tuple[int, ...]  # of the pairs that can occur, background (0) first
    multi_label: bool  # an actor can do several things at once


class Batch(TypedDict, total=False):
    """What the loader gives a method."""

    frames: Tensor  # (B, T, H, W, 3) uint8 RGB
    flow: Tensor  # (B, T, H, W, 2 or 3), encoded as the method's Config asks
    labels: Tensor  # (B, T, H, W) uint8 joint ids, IGNORE where nobody labelled; training only
    actions: Tensor  # multi-label data, whose labels are actors: (B, T, K, H, W) uint8, 1 where an action is done
    sentences: list[str]  # (B,)
    mask: Tensor  # (B, T, H, W) uint8: 1 the actor that the sentence means, 0 else, IGNORE where nobody labelled


@dataclass(frozen=True)
class Predictions:
    """Label maps at the labelled frame of each window, at the resolution of the input: (B, H, W) uint8 each."""

    joint: Tensor
    actor: Tensor
    action: Tensor


@dataclass(frozen=True)
class MultiLabelPredictions:
    """The same where an actor can do several things at once: (B, H, W) uint8 and (B, K, H, W) bool, K all actions."""

    actor: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Window:
    """Frames that a method sees around the frame it labels: numbers ``frame - before`` to ``frame + after``."""

    before: int = 0
    after: int = 0
    every: int | None = None  # in training the frame is at any multiple of it in the window; None: behind `before`

    @property
    def length(self) -> int:
        """Frames in the window."""
        return self.before + 1 + self.after


SINGLE_FRAME = Window()


def finite(values: Tensor, what: str) -> Tensor:
    """``values`` themselves, of which a decision is made next.

    Raises ``FloatingPointError`` where one is not finite: the largest of such numbers, or those above a threshold,
    would be a label like any other.
    """
    if not values.isfinite().all():
        raise FloatingPointError(f"{what} that are not finite")
    return values


def split_labels(joint: Tensor, *, stride: int) -> tuple[Tensor, Tensor]:
    """Joint ids ``actor * stride + action`` to actor and action ids (int64), ``IGNORE`` kept.

    An actor without an action (id 10, 20, ... in A2D) is one whose action nobody told: its action is ``IGNORE``.
    """
    joint = joint.long()
    ignored = joint == IGNORE
    actor, action = joint // stride, joint % stride
    untold = ignored | ((action == 0) & (actor > 0))
    return torch.where(ignored, IGNORE, actor), torch.where(untold, IGNORE, action)


class PairScores(torch.nn.Module):
    """p(pair) = p(actor) p(action), over the pairs that can occur (Dang et al. 2018, equation 1 ff.).

    The best pair is that of the largest sum of logits: the softmaxes' denominators are the same for all pairs. Pairs
    are looked at one after another, so that no map of all of them is made.
    """

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.pairs = [(pair, *divmod(pair, labels.stride)) for pair in labels.valid_ids]
        """Joint id, actor and action of each."""

    def forward(self, actor: Tensor, action: Tensor) -> Predictions:
        """Logits (B, K_actor, H, W) and (B, K_action, H, W) to label maps (B, H, W)."""
        # `max` finds the index several times faster than `argmax` does (torch 2.x on CPUs)
        for scores in (actor, action):
            finite(scores, "scores of pixels")
        best_actor, best_action = (scores.max(1).indices.byte() for scores in (actor, action))
        best = torch.full_like(actor[:, 0], -torch.inf)
        joint = torch.zeros_like(best_actor)
        for pair, who, does in self.pairs:
            scores = actor[:, who] + action[:, does]  # (B, H, W)
            joint.masked_fill_(scores > best, pair)
            torch.maximum(best, scores, out=best)
        return Predictions(joint, best_actor, best_action)


def configuration(module: Any, name: str, *, inputs: str, variant: str) -> Any:
    """``paper`` or ``small`` of a method's module, with ``inputs``, as its ``variant`` has it.

    Raises ``ValueError`` for another name. A variant that the module doesn't list changes no configuration.
    """
    if name not in {"paper", "small"}:
        raise ValueError(f"train.common.config: `{name}` is neither `paper` nor `small`")
    config = module.with_inputs(getattr(module, name), inputs)
    variants = getattr(module, "VARIANTS", {})
    return variants[variant](config) if variant in variants else config
