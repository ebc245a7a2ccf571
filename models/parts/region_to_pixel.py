"""The region-to-pixel layer (Dang et al. 2018, "Actor-Action Semantic Segmentation with Region Masks", equations 2, 3).

A pixel's score for a class is the highest, over the regions whose box holds the pixel, of the region's score times the
probability that the pixel belongs to the region: y_j = max_i m_ij * s_i. Each class takes its own maximum.

Nothing of the size regions x pixels is ever held: the maximum is taken region by region, inside the region's box, in
place. The backward pass goes over the regions again and asks at each pixel whether it is this region's product that
stands there, which is exact because it is the same product of the same numbers. Where two regions tie, the first has
the gradient.

Axes: R regions, K classes (of one or of several class sets side by side), S rows and columns of a soft mask; H, W
frame; h, w = H, W over ``stride``, rounded up.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def region_to_pixel(
    boxes: Tensor, soft_masks: Tensor, scores: Tensor, *, shape: tuple[int, int], stride: int = 1
) -> Tensor:
    """Scores of regions to scores of pixels (K, h, w). Gradients reach ``scores``; boxes and masks are given.

    ``boxes`` (R, 4) x1, y1, x2, y2 in frame pixels, half open: a box holds the pixels whose centre lies in it.
    ``soft_masks`` (R, S, S), from 0 to 1, are stretched over their boxes, bilinear, and constant within half a cell of
    the edge. ``scores`` (R, K) of either sign; ``shape`` (H, W).

    A pixel in no box has 0 for every class. A region adds nothing where its box leaves the frame, so nothing at all if
    it lies outside, has no area, or is so small that it holds no pixel's centre; its gradient is then 0. R may be 0.
    """
    assert len(boxes) == len(soft_masks) == len(scores), (boxes.shape, soft_masks.shape, scores.shape)
    size = (-(-shape[0] // stride), -(-shape[1] // stride))
    return _RegionToPixel.apply(boxes / stride, soft_masks, scores, size)


class _RegionToPixel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boxes: Tensor, soft_masks: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
        pixels = scores.new_full((scores.shape[1], *size), -math.inf)
        for region, inside, mask in _regions(boxes, soft_masks, size):
            products = scores[region, :, None, None] * mask  # (K, box rows, box columns)
            torch.maximum(pixels[inside], products, out=pixels[inside])
        pixels.masked_fill_(pixels == -math.inf, 0)
        ctx.save_for_backward(boxes, soft_masks, scores, pixels)
        return pixels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, None]:
        boxes, soft_masks, scores, pixels = ctx.saved_tensors
        of_scores = torch.zeros_like(scores)
        left = gradient.clone()  # (K, h, w): what has not found its region yet
        for region, inside, mask in _regions(boxes, soft_masks, pixels.shape[1:]):
            products = scores[region, :, None, None] * mask
            won = products.eq_(pixels[inside]).mul_(left[inside])  # 1 where the product stands, times the gradient
            left[inside] -= won
            of_scores[region] = won.mul_(mask).sum((1, 2))
        return None, None, of_scores, None


def _regions(
    boxes: Tensor, soft_masks: Tensor, size: tuple[int, int]
) -> Iterator[tuple[int, tuple[slice, slice, slice], Tensor]]:
    """Every region that holds a pixel: its number, its part of (K, h, w), and its mask stretched over that part."""
    for region, (left, top, right, bottom) in enumerate(boxes.tolist()):
        rows, columns = _centres(top, bottom, size[0]), _centres(left, right, size[1])
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        # Along one axis and then the other; as matrix products these would be too small for BLAS's threads.
        wide = _stretched(soft_masks[region].T, columns, left, right).T.contiguous()  # (S, columns)
        yield region, (slice(None), rows, columns), _stretched(wide, rows, top, bottom)


def _centres(first: float, last: float, length: int) -> slice:
    """The pixels of 0 to ``length`` whose centre lies in the half-open interval."""
    return slice(max(0, math.ceil(first - 0.5)), min(length, math.ceil(last - 0.5)))


def _stretched(cells: Tensor, pixels: slice, first: float, last: float) -> Tensor:
    """(S, ...), spread evenly from ``first`` to ``last``, to (pixels, ...): linear between the cells' centres."""
    side = len(cells)
    centres = torch.arange(pixels.start, pixels.stop, device=cells.device, dtype=cells.dtype) + 0.5
    positions = ((centres - first) * (side / (last - first)) - 0.5).clamp(0, side - 1)
    before = positions.long()
    after = (before + 1).clamp(max=side - 1)
    return torch.lerp(cells[before], cells[after], (positions - before)[:, None])
