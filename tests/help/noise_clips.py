"""Small SSA2Ds, clips of noise that they can run on, and answers in the place of what they compute."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models import IGNORE, ssa2d
from models.base import Batch, Labels
from stages.core.datasets.labels import A2D

TINY = replace(
    ssa2d.small, encoder=replace(ssa2d.small.encoder, width=0.07), decoder=(8, 8, 8), pyramid=4, atrous=(2, 3, 3, 2)
)
TWO_STREAMS = ssa2d.with_inputs(TINY, "rgb+flow")
SEVERAL = replace(A2D, key="several", multi_label=True)
"""A2D's classes, as if an actor could do several things at once."""
LABELLED = TINY.window.before
"""Position of the labelled frame in a window; its output step is half of that."""
STEP = LABELLED // 2


def build(config: ssa2d.Config = TINY, labels: Labels = A2D) -> ssa2d.SSA2D:
    torch.manual_seed(0)
    return ssa2d.build(config, labels)


def batch(height: int = 32, width: int = 48, *, frames: int = 8) -> Batch:
    """Two clips of noise with a bright rectangle, labelled in one frame of each."""
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 80, (2, frames, height, width, 3), generator=random, dtype=torch.uint8)
    labels = torch.full((2, frames, height, width), IGNORE, dtype=torch.uint8)
    labels[:, LABELLED] = 0
    for clip, label in enumerate((17, 66)):
        pictures[clip, :, 8:24, 8:40] += 80 + label
        labels[clip, LABELLED, 8:24, 8:40] = label
    return Batch(frames=pictures, flow=torch.randn(2, frames, height, width, 2, generator=random), labels=labels)


def several_at_once() -> Batch:
    """The same with actors as labels, each of which does two things, and an unlabelled stripe."""
    given = batch()
    labels = given["labels"]
    given["labels"] = torch.where(labels == IGNORE, labels, labels // 10)
    given["labels"][1, LABELLED, :, :6] = IGNORE
    given["actions"] = torch.zeros(2, 8, len(A2D.actions), 32, 48, dtype=torch.uint8)
    for clip, actions in enumerate(((7, 2), (6, 1))):
        given["actions"][clip, LABELLED, list(actions), 8:24, 8:40] = 1
    return given


def answering(logits: Sequence[Tensor]) -> Callable[..., Any]:
    """A network's ``forward`` that gives ``logits`` whatever it sees."""
    return lambda *_, **__: tuple(x.clone() for x in logits)


def some_logits() -> tuple[Tensor, Tensor, Tensor]:
    """Random logits of the shapes that a network gives for 8 frames of 32 x 48."""
    random = torch.Generator().manual_seed(4)
    actor, action, mask = (
        torch.randn(2, k, 4, 32 // s, 48 // s, generator=random) for k, s in ((8, 4), (10, 4), (2, 2))
    )
    return actor, action, mask


def at_step(scores: Tensor, clip: int, step: int) -> Tensor:
    """(K, 32, 48) scores of one output step."""
    return F.interpolate(scores[clip, :, step][None], size=(32, 48), mode="bilinear", align_corners=False)[0]
