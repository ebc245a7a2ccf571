"""The region-to-pixel layer, forward and backward, over a plain loop that leaves the backward pass to autograd.

The loop does what one would write first: for each region a new map of pixel scores, in which the box holds the maximum.
Both see the same regions at A2D's usual size, for 18 classes; their results and gradients are compared. The table shows
how the layer's time and memory grow with the number of regions.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ratio import Ratio, seconds
from models.parts.region_to_pixel import region_to_pixel
from stages.commands.profile import PeakMemory
from stages.core import cli

CLASSES = 18
"""Actors and actions of A2D, background in both."""
SIDE = 28
Regions = tuple[Tensor, Tensor, Tensor]


def measure(*, regions: int = 50, height: int = 320, width: int = 568) -> Ratio:
    """Both ways on one core. Raises ``AssertionError`` where they differ."""
    boxes, masks, scores = make(regions, height, width)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gradients = []

    def learn(pixels: Tensor) -> None:
        pixels.square().sum().backward()
        gradients.append((pixels.detach(), scores.grad))
        scores.grad = None

    try:
        learn(region_to_pixel(boxes, masks, scores, shape=(height, width)))
        ratio = Ratio(
            name="region_to_pixel",
            claim="the region-to-pixel layer over a plain loop with autograd, forward and backward, on one core",
            seconds=seconds(lambda: learn(region_to_pixel(boxes, masks, scores, shape=(height, width)))),
            against=seconds(lambda: learn(plain(boxes, masks, scores, shape=(height, width)))),
            of=f"{regions} regions on {height} x {width} pixels, {CLASSES} classes",
        )
    finally:
        torch.set_num_threads(threads)
    for ours, theirs in zip(gradients[1], gradients[2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)
    return ratio


def make(regions: int, height: int, width: int) -> Regions:
    """Boxes of whole pixels, a tenth of the frame on average, with masks and scores of noise."""
    random = torch.Generator().manual_seed(0)
    frame = torch.tensor([width, height])
    sizes = (torch.rand(regions, 2, generator=random) * 0.6 * frame).long() + 2
    corners = (torch.rand(regions, 2, generator=random) * (frame - sizes)).long()
    boxes = torch.cat([corners, corners + sizes], dim=1).float()
    scores = torch.randn(regions, CLASSES, generator=random)
    return boxes, torch.rand(regions, SIDE, SIDE, generator=random), scores.requires_grad_()


def plain(boxes: Tensor, masks: Tensor, scores: Tensor, *, shape: tuple[int, int]) -> Tensor:
    """Equations 2 and 3, one differentiable region after the other."""
    pixels = torch.full((scores.shape[1], *shape), -torch.inf)
    for (x1, y1, x2, y2), mask, score in zip(boxes.int().tolist(), masks, scores, strict=True):
        resized = F.interpolate(mask[None, None], size=(y2 - y1, x2 - x1), mode="bilinear", align_corners=False)[0]
        before, pixels = pixels, pixels.clone()
        pixels[:, y1:y2, x1:x2] = torch.maximum(before[:, y1:y2, x1:x2], score[:, None, None] * resized)
    return torch.where(pixels.isinf(), 0, pixels)


def grow(regions: int) -> tuple[float, float, float]:
    """Milliseconds forward, milliseconds backward, and MB at the peak of both, at 320 x 568 on one core."""
    torch.set_num_threads(1)
    _learn_once(make(1, 8, 8), (8, 8))  # the first backward pass of a process takes a second
    inputs = make(regions, 320, 568)
    memory = PeakMemory(torch.device("cpu"))
    forward, backward = _learn_once(inputs, (320, 568))
    return 1e3 * forward, 1e3 * backward, memory.growth_megabytes()


def _learn_once(inputs: Regions, shape: tuple[int, int]) -> tuple[float, float]:
    """Seconds forward and backward."""
    found: list[Tensor] = []
    forward = seconds(lambda: found.append(region_to_pixel(*inputs, shape=shape)))
    gradient = torch.ones_like(found[0])
    return forward, seconds(lambda: found[0].backward(gradient))


def main() -> None:
    """The ratio, and the growth with the number of regions."""
    print(measure())
    table = Table(
        "regions", "ms forward", "ms backward", "MB at the peak", title=f"320 x 568, {CLASSES} classes, one core"
    )
    for regions in (1, 10, 100, 500):
        # A process of its own: memory that an earlier number gave back would hide what this one takes.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            forward, backward, megabytes = process.submit(grow, regions).result()
        table.add_row(str(regions), f"{forward:.0f}", f"{backward:.0f}", f"{megabytes:.0f}")
    Console().print(table)


if __name__ == "__main__":
    cli.run(main)
