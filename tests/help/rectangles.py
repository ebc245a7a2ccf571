"""Frames with coloured rectangles, for the tests of instance segmenters."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.parts.region_types import RegionBatch, Regions

ACTORS = ("background", "adult", "baby", "ball", "bird", "car", "cat", "dog")
COLOURS = {1: (230, 40, 40), 2: (40, 220, 60), 5: (40, 60, 230), 7: (230, 220, 40)}
TWO_FRAMES = [[(1, (8, 10, 40, 42)), (5, (56, 20, 88, 56))], [(7, (30, 8, 70, 34))]]
"""Of each frame, class and box of each rectangle."""

Rectangles = list[tuple[int, tuple[int, int, int, int]]]


def rectangles(frames: list[Rectangles], *, height: int = 64, width: int = 96) -> RegionBatch:
    """Grey noise with a rectangle of its class's colour in each box."""
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(90, 130, (len(frames), height, width, 3), generator=random, dtype=torch.uint8)
    masks = [torch.zeros(len(instances), height, width, dtype=torch.bool) for instances in frames]
    for picture, mask, instances in zip(pictures, masks, frames, strict=True):
        for seen, (label, (x1, y1, x2, y2)) in zip(mask, instances, strict=True):
            seen[y1:y2, x1:x2] = True
            picture[y1:y2, x1:x2] = torch.tensor(COLOURS[label], dtype=torch.uint8)
    return RegionBatch(
        frames=pictures,
        boxes=[torch.tensor([box for _, box in instances], dtype=torch.float32).view(-1, 4) for instances in frames],
        labels=[torch.tensor([label for label, _ in instances], dtype=torch.int64) for instances in frames],
        masks=masks,
    )


def learn(network: Any, batch: RegionBatch, *, steps: int, learning_rate: float) -> list[float]:
    """Train a segmenter on one batch; the losses."""
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = network.loss(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def box_iou(a: Tensor, b: Tensor) -> float:
    """Of two boxes (4,)."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(0.0, float(width)) * max(0.0, float(height))
    return shared / (float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - shared)


def pasted(box: Tensor, soft_mask: Tensor, *, height: int = 64, width: int = 96) -> Tensor:
    """A soft mask (28, 28) at its place in the frame (H, W), 0 outside its box."""
    x = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)[None]
    values = F.grid_sample(soft_mask[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    return values * (grid[0].abs() <= 1).all(-1)


def assert_finds(found: list[Regions], batch: RegionBatch, *, threshold: float) -> None:
    """Each instance has a region of its class, and the best regions are instances."""
    for regions, boxes, labels, masks in zip(found, batch["boxes"], batch["labels"], batch["masks"], strict=True):
        for box, label, mask in zip(boxes, labels, masks, strict=True):
            of_class = regions.class_scores[: len(boxes), 1:].argmax(1) + 1 == label
            assert of_class.any(), f"no region of class {label} among the first of {regions.class_scores}"
            best = int(of_class.nonzero()[0])
            assert box_iou(regions.boxes[best], box) > 0.5
            seen = pasted(regions.boxes[best], regions.soft_masks[best]) >= threshold
            assert (seen & mask).sum() / (seen | mask).sum() > 0.5


def assert_well_formed(regions: Regions, *, classes: int, height: int = 64, width: int = 96) -> None:
    """Shapes, types and ranges that ``models.parts.region_types`` promises."""
    count = len(regions.boxes)
    assert regions.boxes.shape == (count, 4) and regions.scores.shape == (count,)
    assert regions.class_scores.shape == (count, classes) and regions.soft_masks.shape == (count, 28, 28)
    parts = (regions.boxes, regions.scores, regions.class_scores, regions.soft_masks)
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in parts)
    assert (regions.boxes[:, :2] >= 0).all() and (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert (regions.boxes[:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
    assert (regions.scores.diff() <= 0).all(), "best first"
    if count:
        torch.testing.assert_close(regions.scores, regions.class_scores[:, 1:].amax(1))
        torch.testing.assert_close(regions.class_scores.sum(1), torch.ones(count))
        assert regions.soft_masks.min() >= 0 and regions.soft_masks.max() <= 1
