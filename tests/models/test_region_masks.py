"""Region masks (Dang et al.): RoI pooling against a plain loop, background, one label a region, the loss, no region."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, deeplab, region_masks
from models.parts import resnet
from models.parts.network import parameter_count
from models.parts.region_types import RegionMaskBatch
from models.region_masks import RegionMasks, roi_pool
from stages.core.datasets.labels import A2D

TINY = replace(
    region_masks.small, encoder=resnet.Config(layers=(1, 1, 1, 1), width=2, bottleneck=False), pool=2, hidden=(16,)
)
CHANNELS = 2 * TINY.encoder.channels
SHAPE = (40, 56)
LEFT, RIGHT = (3.0, 4.0, 23.0, 36.0), (30.0, 10.0, 54.0, 30.0)
"""Boxes that do not overlap."""


pytestmark = pytest.mark.usefixtures("one_thread")


def build(config: region_masks.Config = TINY) -> RegionMasks:
    torch.manual_seed(0)
    return region_masks.build(config, A2D).eval()


def batch(*frames: list[tuple[float, ...]], shape: tuple[int, int] = SHAPE, seed: int = 0) -> RegionMaskBatch:
    """Noise as features; in each frame the given boxes, whose masks are 1; labels of a figure on background."""
    random = torch.Generator().manual_seed(seed)
    height, width = shape
    labels = torch.zeros(len(frames), 1, *shape, dtype=torch.uint8)
    labels[:, :, 4:36, 3:23] = 17
    return RegionMaskBatch(
        features=torch.rand(len(frames), CHANNELS, -(-height // 8), -(-width // 8), generator=random),
        boxes=[torch.tensor(boxes).view(-1, 4) for boxes in frames],
        soft_masks=[torch.ones(len(boxes), 28, 28) for boxes in frames],
        shape=shape,
        labels=labels,
    )


# Sizes and training


@pytest.mark.parametrize(("inputs", "count", "streams"), [("rgb", 207_640_594, 1), ("rgb+flow", 413_161_490, 2)])
def test_the_paper_s_size_is_its_fully_connected_layers(inputs: str, count: int, streams: int) -> None:
    with torch.device("meta"):
        network = region_masks.build(region_masks.with_inputs(region_masks.paper, inputs), A2D)
    first, second, last = 2048 * streams * 49 * 1024 + 1024, 1024 * 1024 + 1024, 1024 * (8 + 10) + 8 + 10
    assert parameter_count(network) == count == 2 * (first + second) + last


@pytest.mark.parametrize(("inputs", "published"), [("rgb", 44), ("rgb+flow", 88)])
def test_ssa2d_s_figures_for_it_are_the_front_end_with_the_baseline_s_heads(inputs: str, published: int) -> None:
    with torch.device("meta"):
        front_end = deeplab.build(deeplab.with_inputs(deeplab.paper, inputs), A2D)
    assert round(parameter_count(front_end) / 1e6) == published


def test_the_small_network_s_size_is_known() -> None:
    with torch.device("meta"):
        assert parameter_count(region_masks.build(region_masks.small, A2D)) == 1_608_466


def test_the_paper_s_training_is_the_second_stage_of_section_3_4() -> None:
    training = region_masks.paper.training
    assert (training.steps, training.batch, training.optimiser) == (80_000, 1, "sgd")
    assert training.learning_rates == {"back": 2.5e-4}


@pytest.mark.parametrize("size", ["paper", "small"])
def test_it_reads_the_frames_and_features_of_the_baseline_of_its_size(size: str) -> None:
    ours, front_end = getattr(region_masks, size), getattr(deeplab, size)
    for name in ("streams", "encoder", "height", "window", "flow_encoding"):
        assert getattr(ours, name) == getattr(front_end, name)


def test_all_that_learns_is_in_one_group_and_no_encoder_is_here() -> None:
    network = build()
    assert network.parameter_groups() == {"back": list(network.parameters())}
    assert set(network.parameter_groups()) == set(region_masks.paper.training.learning_rates)
    assert network.encoder_slots() == {}


# RoI pooling


def looped(features: Tensor, boxes: Tensor, *, stride: int, side: int) -> Tensor:
    """Fast R-CNN's definition, one bin at a time, for boxes whose cells lie on the map."""
    pooled = torch.zeros(len(boxes), len(features), side, side)
    for region, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        left, top, right, bottom = (math.floor(edge / stride + 0.5) for edge in (x1, y1, x2 - 1, y2 - 1))
        for row in range(side):
            for column in range(side):
                rows, columns = (
                    slice(start + i * n // side, start + -(-(i + 1) * n // side))
                    for start, n, i in ((top, bottom - top + 1, row), (left, right - left + 1, column))
                )
                pooled[region, :, row, column] = features[:, rows, columns].amax((1, 2))
    return pooled


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.integers(1, 7))
def test_roi_pooling_is_that_of_a_plain_loop(seed: int, side: int) -> None:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 9, 12, generator=random)
    corners = torch.rand(6, 2, 2, generator=random) * torch.tensor([88.0, 64.0])  # cells 0 to 11 and 0 to 8
    boxes = torch.cat([corners.min(1).values, corners.max(1).values + 1], dim=1)
    assert torch.equal(roi_pool(features, boxes, stride=8, side=side), looped(features, boxes, stride=8, side=side))


def test_a_roi_of_one_cell_fills_every_bin_with_it() -> None:
    features = torch.arange(12.0).view(1, 3, 4)
    assert roi_pool(features, torch.tensor([[9.0, 8.0, 11.0, 9.0]]), stride=8, side=2).unique().tolist() == [5]


@pytest.mark.parametrize(
    ("box", "cell"),
    [((-90.0, -90.0, -80.0, -80.0), 0), ((70.0, 60.0, 90.0, 80.0), 11), ((15.0, 8.0, 15.0, 8.0), 6)],
    ids=["above left", "below right", "a point"],
)
def test_a_box_without_a_cell_is_pooled_from_the_nearest(box: tuple[float, ...], cell: int) -> None:
    pooled = roi_pool(torch.arange(12.0).view(1, 3, 4), torch.tensor([box]), stride=8, side=3)
    assert pooled.shape == (1, 1, 3, 3) and pooled.unique().tolist() == [cell]


def test_no_box_gives_no_pooled_cell() -> None:
    assert roi_pool(torch.rand(5, 3, 4), torch.zeros(0, 4), stride=8, side=7).shape == (0, 5, 7, 7)


# What pixels are called


class Fixed(nn.Module):
    """A classifier that gives the regions these scores."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, _: Tensor) -> Tensor:
        return self.scores


def says(*regions: tuple[int, int, float]) -> RegionMasks:
    """A network that gives each region this score for this actor and this action, and 0 for the others."""
    network = build()
    actors, actions = zip(*(((a, score), (b, score)) for a, b, score in regions), strict=True)
    for name, classes, chosen in (("actor", 8, actors), ("action", 10, actions)):
        scores = torch.stack([torch.eye(classes)[number] * score for number, score in chosen])
        setattr(network, name, Fixed(scores))
    return network


def test_a_region_s_pixels_have_its_label_and_pixels_of_no_region_are_background() -> None:
    predicted = says((6, 3, 10), (1, 7, 10)).predict(batch([LEFT, RIGHT], []))
    expected = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    expected[0, 4:36, 3:23], expected[0, 10:30, 30:54] = 63, 17
    assert torch.equal(predicted.joint, expected)
    assert torch.equal(predicted.actor, expected // 10) and torch.equal(predicted.action, expected % 10)


def test_a_pixel_that_no_region_claims_is_background_with_probability_0_95() -> None:
    actor, action = build()(batch([]))
    assert actor.softmax(1)[:, 0].unique().tolist() == pytest.approx([math.exp(5) / (math.exp(5) + 7)])
    assert action.softmax(1)[:, 0].unique().tolist() == pytest.approx([math.exp(5) / (math.exp(5) + 9)])


@pytest.mark.parametrize(("probability", "label"), [(0.2, 0), (0.3, 0), (0.4, 17), (1.0, 17)])
def test_a_region_of_score_10_claims_a_pixel_from_a_third_on(probability: float, label: int) -> None:
    """m * 10 against (1 - m) * 5."""
    dim = batch([LEFT])
    dim["soft_masks"] = [torch.full((1, 28, 28), probability)]
    assert says((1, 7, 10)).predict(dim).joint[0, 20, 12] == label


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_however_a_mask_varies_a_region_carries_one_label(seed: int) -> None:
    torch.manual_seed(seed)
    network, ragged = build(), batch([LEFT])
    network.actor, network.action = Fixed(torch.randn(1, 8) * 10), Fixed(torch.randn(1, 10) * 10)
    ragged["soft_masks"] = [torch.rand(1, 28, 28)]
    assert len(set(network.predict(ragged).joint.unique().tolist()) - {0}) <= 1


def test_a_region_may_be_called_background() -> None:
    assert not says((0, 0, 10)).predict(batch([LEFT])).joint.any()


@pytest.mark.parametrize(("probability", "label"), [(0.8, 17), (0.9, 63)])
def test_where_regions_overlap_the_highest_product_of_mask_and_score_wins(probability: float, label: int) -> None:
    """12 times the probability against 10."""
    overlapping = batch([LEFT, LEFT])
    overlapping["soft_masks"] = [torch.stack([torch.ones(28, 28), torch.full((28, 28), probability)])]
    assert says((1, 7, 10), (6, 3, 12)).predict(overlapping).joint[0, 20, 12] == label


def test_the_best_pair_is_one_that_can_occur() -> None:
    """A bird does not run: its second best action is taken."""
    network = says((4, 7, 10))
    network.action = Fixed(torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 10, 9, 0]]))
    assert network.predict(batch([LEFT])).joint[0, 20, 12] == 48


@pytest.mark.parametrize("shape", [(40, 56), (41, 55)], ids=["even", "odd"])
def test_at_half_the_resolution_only_borders_differ(shape: tuple[int, int]) -> None:
    full, half = (build(replace(TINY, output_stride=stride)) for stride in (1, 2))
    for network in (full, half):
        network.actor, network.action = says((1, 7, 10)).actor, says((1, 7, 10)).action
    found, expected = (network.predict(batch([(3.0, 5.0, 24.0, 36.0)], shape=shape)).joint for network in (half, full))
    assert found.shape == expected.shape == (1, *shape)
    differ = (found != expected).nonzero()[:, 1:]
    edges = torch.tensor([[5, 35], [3, 23]])  # first and last row, first and last column
    assert ((differ[:, :, None] - edges).abs().amin(2).amin(1) <= 1).all() and len(differ)


# The loss


def test_the_loss_is_the_cross_entropy_of_actor_and_action() -> None:
    network, given_batch = build(), batch([LEFT, RIGHT], [RIGHT])
    losses, scores = network.loss(given_batch), network(given_batch)
    labels = given_batch["labels"].long()
    for name, logits, truth in zip(("actor", "action"), scores, (labels // 10, labels % 10), strict=True):
        right = logits.log_softmax(1).gather(1, truth)
        assert losses[name].item() == pytest.approx(-right.mean().item(), rel=1e-5)
    assert losses["loss"].item() == pytest.approx((losses["actor"] + losses["action"]).item())


def test_regions_at_unlabelled_pixels_change_nothing() -> None:
    losses = []
    for regions in ([LEFT], [LEFT, RIGHT]):
        given_batch = batch(regions)
        given_batch["labels"][:, :, :, 28:] = IGNORE
        losses.append(build().loss(given_batch)["loss"].item())
    assert losses[0] == losses[1]


def test_frames_of_one_batch_know_nothing_of_each_other() -> None:
    network, together = build(), batch([LEFT], [], [RIGHT, LEFT])
    for name, whole in zip(("actor", "action"), network(together), strict=True):
        for frame in range(3):
            single = RegionMaskBatch(
                features=together["features"][frame : frame + 1],
                boxes=[together["boxes"][frame]],
                soft_masks=[together["soft_masks"][frame]],
                shape=SHAPE,
            )
            alone = dict(zip(("actor", "action"), network(single), strict=True))[name]
            torch.testing.assert_close(alone[0], whole[frame])


def test_beside_a_larger_frame_a_frame_is_what_it_is_alone() -> None:
    network, small, large = build(), batch([LEFT, RIGHT]), batch([LEFT], shape=(48, 80), seed=1)
    both = RegionMaskBatch(
        features=[small["features"][0], large["features"][0]],
        boxes=small["boxes"] + large["boxes"],
        soft_masks=small["soft_masks"] + large["soft_masks"],
        shape=(48, 80),
        labels=torch.cat([F.pad(small["labels"], (0, 24, 0, 8), value=IGNORE), large["labels"]]),
    )
    joint = network.predict(both).joint
    assert torch.equal(joint[0, :40, :56], network.predict(small).joint[0])
    assert torch.equal(joint[1], network.predict(large).joint[0])
    pixels = [40 * 56, 48 * 80]
    alone = [network.loss(single)["loss"].item() for single in (small, large)]
    expected = sum(n * loss for n, loss in zip(pixels, alone, strict=True)) / sum(pixels)
    assert network.loss(both)["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "boxes", [[], [(60.0, 4.0, 80.0, 30.0)], [(9.0, 9.0, 9.0, 20.0)]], ids=["no", "outside", "no area"]
)
def test_a_frame_that_no_region_covers_teaches_nothing_and_is_background(boxes: list[tuple[float, ...]]) -> None:
    network = build()
    loss = network.loss(batch(boxes))["loss"]
    loss.backward()
    assert loss.isfinite() and not any(p.grad is None or p.grad.any() for p in network.parameters())
    assert not network.predict(batch(boxes)).joint.any()


def test_500_regions_are_learnt_from_and_labelled() -> None:
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(500, 2, 2, generator=random) * torch.tensor(SHAPE[::-1]) * 1.5 - 10
    boxes = torch.cat([corners.min(1).values, corners.max(1).values], dim=1)
    many = batch([tuple(box) for box in boxes.tolist()])
    network = build()
    network.loss(many)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())
    assert network.predict(many).joint.shape == (1, *SHAPE)


def test_a_few_steps_teach_regions_from_what_lies_under_them() -> None:
    network = build().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    frames = batch([LEFT, RIGHT])
    frames["features"] = torch.zeros(1, CHANNELS, 5, 7)
    frames["features"][0, :8, :, :3], frames["features"][0, 8:, :, 4:] = 1, 1
    frames["labels"][:, :, 10:30, 30:54] = 63
    losses: list[float] = []
    for _ in range(40):
        loss = network.loss(frames)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    predicted = network.eval().predict(frames).joint
    assert torch.equal(predicted, frames["labels"][:, 0])


def test_dropout_is_for_training() -> None:
    network, given_batch = build(replace(TINY, dropout=0.5)), batch([LEFT])
    assert torch.equal(network(given_batch)[0], network(given_batch)[0])
    network.train()
    assert not torch.equal(network(given_batch)[0], network(given_batch)[0])
