"""The region-to-pixel layer: value and gradient against a plain loop, frames without regions, hundreds of regions."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.parts.region_to_pixel import region_to_pixel

SHAPE = (11, 14)


pytestmark = pytest.mark.usefixtures("one_thread")


def regions(count: int, *, classes: int = 3, side: int = 4, seed: int = 0, shape: tuple[int, int] = SHAPE) -> Any:
    """Boxes, some beyond the frame, masks and scores of either sign: noise."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=random) * torch.tensor(shape[::-1]) * 1.4 - 2
    boxes = torch.cat([corners.min(1).values, corners.max(1).values], dim=1)
    masks = torch.rand(count, side, side, generator=random)
    return boxes, masks, torch.randn(count, classes, generator=random)


def looped(boxes: Tensor, masks: Tensor, scores: Tensor, *, shape: tuple[int, int], stride: int = 1) -> Tensor:
    """Equations 2 and 3, one pixel and one region at a time."""
    height, width = -(-shape[0] // stride), -(-shape[1] // stride)
    pixels = []
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            products = [
                probability(mask, x=(x - x1) / (x2 - x1), y=(y - y1) / (y2 - y1)) * score
                for (x1, y1, x2, y2), mask, score in zip(boxes.tolist(), masks, scores, strict=True)
                if x1 <= x < x2 and y1 <= y < y2
            ]
            pixels.append(torch.stack(products).amax(0) if products else 0 * scores.sum(0))
    return torch.stack(pixels).T.reshape(-1, height, width)


def probability(mask: Tensor, *, x: float, y: float) -> Tensor:
    """The mask at a place given as a share of its box."""
    side = len(mask)
    (left, right, across), (top, bottom, down) = (neighbours(share * side - 0.5, side) for share in (x, y))
    above = mask[top, left] * (1 - across) + mask[top, right] * across
    below = mask[bottom, left] * (1 - across) + mask[bottom, right] * across
    return above * (1 - down) + below * down


def neighbours(position: float, side: int) -> tuple[int, int, float]:
    position = min(max(position, 0.0), side - 1.0)
    return int(position), min(int(position) + 1, side - 1), position - int(position)


def value_and_gradient(
    function: Any, boxes: Tensor, masks: Tensor, scores: Tensor, **sizes: Any
) -> tuple[Tensor, Tensor]:
    """Value, and gradient to the scores of a sum in which every pixel and class counts differently."""
    scores = scores.clone().requires_grad_()
    pixels = function(boxes, masks, scores, **sizes)
    weights = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(9))
    (pixels * weights).sum().backward()
    assert scores.grad is not None
    return pixels.detach(), scores.grad


# Against the definition


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 7), seed=st.integers(0, 10_000), stride=st.sampled_from([1, 2, 3]))
def test_value_and_gradient_are_those_of_a_plain_loop(count: int, seed: int, stride: int) -> None:
    given_regions = regions(count, seed=seed)
    found = value_and_gradient(region_to_pixel, *given_regions, shape=SHAPE, stride=stride)
    expected = value_and_gradient(looped, *given_regions, shape=SHAPE, stride=stride)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    boxes, masks, scores = (x.double() for x in regions(4, side=3))
    assert torch.autograd.gradcheck(lambda s: region_to_pixel(boxes, masks, s, shape=(6, 7)), scores.requires_grad_())


def test_a_mask_is_stretched_over_its_box_as_a_picture_is_resized() -> None:
    _, masks, _ = regions(1, side=28)
    pixels = region_to_pixel(torch.tensor([[3.0, 2.0, 48.0, 21.0]]), masks, torch.ones(1, 1), shape=(30, 60))
    expected = F.interpolate(masks[None], size=(19, 45), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(pixels[:, 2:21, 3:48], expected)
    assert pixels.count_nonzero() == expected.count_nonzero(), "and nothing beside it"


def test_each_class_takes_its_own_maximum() -> None:
    """By hand: two regions over one pixel; 0.5 * 4 before 1 * 1, and 1 * 3 before 0.5 * 2."""
    masks = torch.tensor([0.5, 1.0]).view(2, 1, 1)
    scores = torch.tensor([[4.0, 2.0], [1.0, 3.0]], requires_grad=True)
    pixels = region_to_pixel(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), masks, scores, shape=(1, 1))
    assert pixels.flatten().tolist() == [2, 3]
    pixels.sum().backward()
    assert scores.grad is not None and scores.grad.tolist() == [[0.5, 0], [0, 1]]


def test_a_score_below_zero_is_not_lifted_to_zero_by_regions_elsewhere() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])
    pixels = region_to_pixel(boxes, torch.ones(2, 1, 1), torch.tensor([[-2.0], [5.0]]), shape=(1, 3))
    assert pixels.flatten().tolist() == [-2, 5, 0]


def test_of_regions_that_tie_the_first_has_the_gradient() -> None:
    scores = torch.ones(3, 1, requires_grad=True)
    region_to_pixel(
        torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 3), torch.ones(3, 1, 1), scores, shape=(2, 2)
    ).sum().backward()
    assert scores.grad is not None and scores.grad.flatten().tolist() == [4, 0, 0]


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 10_000))
def test_the_order_of_regions_changes_nothing(count: int, seed: int) -> None:
    boxes, masks, scores = regions(count, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    pixels = region_to_pixel(boxes, masks, scores, shape=SHAPE)
    assert torch.equal(region_to_pixel(boxes[order], masks[order], scores[order], shape=SHAPE), pixels)


# Where regions miss the frame


def test_without_regions_every_score_is_zero_and_a_loss_can_still_be_differentiated() -> None:
    boxes, masks, scores = regions(0, side=28)
    pixels = region_to_pixel(boxes, masks, scores.requires_grad_(), shape=SHAPE)
    assert pixels.shape == (3, *SHAPE) and not pixels.any()
    pixels.sum().backward()
    assert scores.grad is not None and scores.grad.shape == (0, 3)


@pytest.mark.parametrize(
    "box",
    [
        (-9.0, 2.0, -3.0, 6.0), (14.0, 0.0, 20.0, 11.0), (0.0, -5.0, 14.0, 0.0), (3.0, 11.0, 5.0, 12.0),
        (4.0, 4.0, 4.0, 9.0), (4.5, 4.5, 4.5, 4.5), (9.0, 2.0, 4.0, 6.0), (4.6, 2.0, 5.4, 6.0),
    ],
    ids=["left of", "right of", "above", "below", "no width", "a point", "inverted", "between two pixels"],
)  # fmt: skip
def test_a_region_that_holds_no_pixel_adds_nothing_and_learns_nothing(box: tuple[float, ...]) -> None:
    boxes, masks, scores = regions(3)
    more = torch.cat([boxes, torch.tensor([box])]), torch.cat([masks, masks[:1]]), torch.cat([scores, 99 + scores[:1]])
    found, expected = (value_and_gradient(region_to_pixel, *r, shape=SHAPE) for r in (more, (boxes, masks, scores)))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1][:3], expected[1]) and not found[1][3].any()


def test_a_region_partly_outside_is_cut_not_squeezed() -> None:
    boxes, masks, scores = regions(5)
    large = region_to_pixel(boxes + 10, masks, scores, shape=(31, 34))
    small = region_to_pixel(boxes, masks, scores, shape=SHAPE)
    torch.testing.assert_close(small, large[:, 10:21, 10:24])


# Hundreds of regions


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return result


def test_500_regions_give_what_the_whole_tensor_of_regions_by_pixels_gives() -> None:
    boxes, masks, scores = regions(500, side=28, shape=(40, 60))
    alone = [region_to_pixel(boxes[i : i + 1], masks[i : i + 1], torch.ones(1, 1), shape=(40, 60)) for i in range(500)]
    probabilities = torch.cat(alone)  # (R, H, W)
    whole = torch.where(probabilities[:, None] > 0, probabilities[:, None] * scores[:, :, None, None], -torch.inf)
    expected = whole.amax(0)
    found = region_to_pixel(boxes, masks, scores, shape=(40, 60))
    torch.testing.assert_close(found, torch.where(expected.isinf(), 0, expected))


def test_no_tensor_grows_with_regions_times_pixels() -> None:
    boxes, masks, scores = regions(100, shape=(64, 96))
    with LargestTensor() as largest:
        region_to_pixel(boxes, masks, scores.requires_grad_(), shape=(64, 96)).sum().backward()
    assert largest.numbers == 3 * 64 * 96, "the result is the largest of them"
    assert scores.grad is not None and scores.grad.any()
