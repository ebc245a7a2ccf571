"""Small networks of models/joint.py, windows of rectangles that they run on, and heads that say what they are told."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models import joint
from models.parts import resnet
from models.parts.region_types import Detections, InstanceBatch
from stages.core.datasets.labels import A2D
from tests.help.rectangles import rectangles

Pairs = list[tuple[int, tuple[int, int, int, int]]]
TWO_WINDOWS: list[Pairs] = [[(17, (8, 10, 40, 42)), (56, (56, 20, 88, 56))], [(75, (30, 8, 70, 34))]]
"""Of each window, joint id and box of each actor in the labelled frame."""
DETECTOR = replace(
    joint.small.detector,
    encoder=resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False, stride=32),
    channels=16,
    hidden=32,
    proposals=20,
    rois=16,
    score_threshold=0.0,
)
TINY = replace(joint.small, detector=DETECTOR)
RGB = joint.with_inputs(TINY, "rgb")


def build(config: joint.Config = TINY) -> joint.Joint:
    torch.manual_seed(0)
    return joint.build(config, A2D)


def variant(name: str, config: joint.Config = TINY) -> joint.Config:
    return joint.VARIANTS[name](config)


def batch(windows: list[Pairs] = TWO_WINDOWS, *, length: int = 3, height: int = 64, width: int = 96) -> InstanceBatch:
    """Rectangles on noise in the middle frame, moving by a pixel a frame, and optical flow of noise."""
    still = rectangles([[(pair // 10, box) for pair, box in seen] for seen in windows], height=height, width=width)
    shifts = range(-(length // 2), length - length // 2)
    random = torch.Generator().manual_seed(1)
    return InstanceBatch(
        frames=torch.stack([still["frames"].roll(shift, dims=2) for shift in shifts], dim=1),
        flow=torch.randn(len(windows), length, height, width, 3, generator=random),
        boxes=still["boxes"],
        labels=still["labels"],
        actions=[torch.tensor([pair % 10 for pair, _ in seen], dtype=torch.int64) for seen in windows],
        masks=still["masks"],
    )


def changed(given: InstanceBatch, **changes: Any) -> InstanceBatch:
    return InstanceBatch(**{**given, **changes})  # type: ignore[typeddict-item]


def losses(network: joint.Joint, given: InstanceBatch) -> dict[str, Tensor]:
    """With the same RoIs drawn every time."""
    torch.manual_seed(3)
    return network.loss(given)


def differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """Names under which the two differ."""
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def detected(network: joint.Joint, given: InstanceBatch) -> dict[str, Tensor]:
    """What is found in the first window."""
    found = vars(network.detect(given)[0])
    assert len(found["scores"]) > 3
    return found


def assert_well_formed(found: Detections, *, height: int = 64, width: int = 96) -> None:
    """Shapes, types and ranges that ``models.parts.region_types`` promises."""
    count = len(found.scores)
    shapes = {name: tuple(value.shape) for name, value in vars(found).items()}
    assert shapes == {
        "boxes": (count, 4), "scores": (count,), "actor_scores": (count, 8), "action_scores": (count, 10),
        "soft_masks": (count, 28, 28),
    }  # fmt: skip
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in vars(found).values())
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (found.boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert (found.scores.diff() <= 0).all() and torch.equal(found.scores, found.actor_scores[:, 1:].amax(1, True)[:, 0])
    for scores in (found.actor_scores, found.action_scores):
        torch.testing.assert_close(scores.sum(1), torch.ones(count))


def of_head(network: joint.Joint, scores: dict[int, float], *, number: int = 0) -> None:
    """Let action head ``number`` say for every RoI ``scores`` of classes, as logits, and 0 of the others."""
    last = network.heads[number][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    for action, value in scores.items():
        nn.init.constant_(last.bias[action], value)


def of_actors(network: joint.Joint, actor: int) -> None:
    """Let the actor head be sure of ``actor`` for every RoI."""
    nn.init.constant_(network.detector.roi_head.bbox_head.fc_cls.bias[actor - 1], 20.0)
