"""FCIS: position-sensitive pooling, class and mask from the same cells, mask voting, learning and finding."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts import detection, fcis, resnet
from models.parts.fcis import CELLS, GROUPS, position_sensitive_pool, vote
from models.parts.network import load_encoder, parameter_count
from tests.help.rectangles import ACTORS, TWO_FRAMES, assert_finds, assert_well_formed, box_iou, learn, rectangles

ENCODER = resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False, stride=8)
TINY = replace(fcis.small, encoder=ENCODER, channels=16, rpn_channels=16, proposals=20, rois=16)


def build(config: fcis.Config = TINY, *, seed: int = 0, labels: tuple[str, ...] = ACTORS) -> fcis.FCIS:
    torch.manual_seed(seed)
    return fcis.build(config, labels)


# Sizes


def test_the_paper_s_parameters_are_resnet_101_rpn_and_maps() -> None:
    with torch.device("meta"):
        network = build(fcis.paper)
    rpn = 9 * 1024 * 512 + 512 + 513 * 9 * (2 + 4)  # 9 anchors a place: two scores, four deltas
    maps = 2049 * 1024 + 1025 * 49 * (2 * 8 + 8)  # inside and outside of 8 classes, 8 deltas, in 49 groups
    fixed = 9_408 + 128 + 215_808  # conv1, bn1, layer1
    everything = sum(parameter.numel() for parameter in network.parameters())
    assert everything == 50_550_542 == 42_500_160 + rpn + maps
    assert parameter_count(network) == 50_325_198 == everything - fixed


def test_the_small_network_s_size_is_known() -> None:
    assert parameter_count(build(fcis.small)) == 914_310


def test_the_paper_s_settings_are_the_published_ones() -> None:
    paper, training = fcis.paper, fcis.paper.training
    assert (paper.scale, paper.anchors, paper.rois, paper.background) == ((600, 1000), (8, 16, 32), 128, (0.1, 0.5))
    assert (paper.proposals, paper.nms, paper.regions, paper.mask_threshold) == (300, 0.3, 100, 0.4)
    assert training.learning_rates == {"encoder": 5e-4, "head": 5e-4} and training.weight_decay == 5e-4
    assert training.steps == 22 * 9561 and training.schedule == f"step:{14 * 9561}:0.1"
    assert fcis.MASK_WEIGHT == 10
    with torch.device("meta"):
        network = build(paper)
    assert network.coder.stds == (0.2, 0.2, 0.5, 0.5)
    assert (network.sampler.num, network.sampler.pos_fraction, network.sampler.add_gt_as_proposals) == (128, 0.25, True)
    layer4 = network.encoder.get_submodule("layer4.1.conv2")
    assert isinstance(layer4, nn.Conv2d) and layer4.dilation == (2, 2)


def test_the_rpn_and_the_score_maps_have_a_sixteenth_of_the_frame_s_resolution() -> None:
    network = build(replace(TINY, encoder=replace(ENCODER, stride=16)))
    (scores, deltas), maps = network(torch.zeros(2, 3, 64, 96))
    assert scores[0].shape == (2, 18, 4, 6) and deltas[0].shape == (2, 36, 4, 6)
    assert maps.shape == (2, (2 * 8 + 8) * 49, 4, 6)


# Pooling


def pooled_by_loop(maps: Tensor, rois: Tensor, *, stride: int) -> Tensor:
    """As the authors describe it, in fractions of whole numbers."""
    _, channels, height, width = maps.shape
    cells = maps.new_zeros(len(rois), channels // GROUPS**2, CELLS, CELLS)
    for number, (frame, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (round(side) for side in box)
        across, down = max(1, x2 - x1), max(1, y2 - y1)
        for i in range(CELLS):
            for j in range(CELLS):
                top = math.floor((y1 * CELLS + i * down) / (CELLS * stride))
                bottom = math.ceil((y1 * CELLS + (i + 1) * down) / (CELLS * stride))
                left = math.floor((x1 * CELLS + j * across) / (CELLS * stride))
                right = math.ceil((x1 * CELLS + (j + 1) * across) / (CELLS * stride))
                rows = slice(max(0, top), min(height, max(0, bottom)))
                columns = slice(max(0, left), min(width, max(0, right)))
                group = (i * GROUPS // CELLS) * GROUPS + j * GROUPS // CELLS
                part = maps[int(frame), group :: GROUPS**2, rows, columns]
                if part.numel():
                    cells[number, :, i, j] = part.mean((1, 2))
    return cells


sides = st.tuples(st.floats(-3, 40), st.floats(-3, 30), st.floats(0, 45), st.floats(0, 35))


@settings(max_examples=10, deadline=None)
@given(st.lists(sides, min_size=1, max_size=3), st.integers(1, 2), st.sampled_from([4, 8]))
def test_pooling_and_its_gradient_are_those_of_a_plain_loop(
    boxes: list[tuple[float, ...]], frames: int, stride: int
) -> None:
    random = torch.Generator().manual_seed(len(boxes))
    maps = torch.randn(frames, 3 * GROUPS**2, 4, 5, generator=random, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([(n % frames, x, y, x + w, y + h) for n, (x, y, w, h) in enumerate(boxes)], dtype=torch.float64)
    got, expected = position_sensitive_pool(maps, rois, stride=stride), pooled_by_loop(maps, rois, stride=stride)
    torch.testing.assert_close(got, expected)
    weights = torch.randn(got.shape, generator=random, dtype=torch.float64)
    gradients = [torch.autograd.grad((cells * weights).sum() + maps.sum(), maps) for cells in (got, expected)]
    torch.testing.assert_close(*gradients)


def test_each_cell_reads_the_map_of_its_own_place() -> None:
    maps = torch.arange(GROUPS**2.0).view(1, -1, 1, 1).expand(1, -1, 6, 8)
    [[cells]] = position_sensitive_pool(maps, torch.tensor([[0, 3.0, 5, 60, 40]]), stride=8)
    assert cells[::3, ::3].flatten().tolist() == list(range(GROUPS**2))
    assert torch.equal(cells, cells[::3, ::3].repeat_interleave(3, 0).repeat_interleave(3, 1))


def test_a_cell_that_lies_outside_the_map_is_0_and_no_roi_gives_no_cells() -> None:
    maps = torch.ones(1, 2 * GROUPS**2, 2, 2)
    cells = position_sensitive_pool(maps, torch.tensor([[0, 100.0, 0, 121, 8]]), stride=8)
    assert cells.shape == (1, 2, CELLS, CELLS) and not cells.any()
    assert position_sensitive_pool(maps, torch.zeros(0, 5), stride=8).shape == (0, 2, CELLS, CELLS)


def test_pooling_does_not_depend_on_how_the_maps_lie_in_memory() -> None:
    maps, rois = torch.randn(2, 3 * GROUPS**2, 6, 8), torch.tensor([[0, 3.0, 5, 60, 40], [1, 0, 0, 64, 48]])
    last = maps.contiguous(memory_format=torch.channels_last)
    assert torch.equal(position_sensitive_pool(last, rois, stride=8), position_sensitive_pool(maps, rois, stride=8))


def test_pooling_in_single_precision_is_as_exact_as_a_mean() -> None:
    """An integral image in single precision would be off by some hundredths here."""
    maps = torch.full((1, GROUPS**2, 60, 60), 1000.0)
    maps[:, :, 59, 59] = 1.0
    cells = position_sensitive_pool(maps, torch.tensor([[0, 59.0, 59, 60, 60]]), stride=1)
    assert torch.equal(cells, torch.ones_like(cells))


# Class, mask and box


def test_class_mask_and_box_are_read_off_the_same_cells() -> None:
    network = build(labels=("background", "dog"))
    maps = torch.randn(1, (2 * 2 + 8) * GROUPS**2, 8, 12)
    rois = torch.tensor([[0, 0.0, 0, 60, 50], [0, 20, 10, 90, 60]])
    scores, masks, deltas = network.assemble(maps, rois)
    cells = position_sensitive_pool(maps, rois, stride=8)
    for roi in range(2):
        for label in range(2):
            outside, inside = cells[roi, 2 * label], cells[roi, 2 * label + 1]
            larger = [max(a, b) for a, b in zip(outside.flatten().tolist(), inside.flatten().tolist(), strict=True)]
            assert scores[roi, label].item() == pytest.approx(sum(larger) / CELLS**2, abs=1e-5)
            assert torch.equal(masks[roi, label], torch.stack([outside, inside]))
        assert deltas[roi].tolist() == pytest.approx([cells[roi, 8 + d].mean().item() for d in range(4)], abs=1e-5)


def test_a_cell_belongs_to_the_instance_where_the_mask_covers_two_fifths_of_it() -> None:
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :, :12] = True
    batch = rectangles([[(1, (0, 0, 12, 64))]])
    batch["masks"] = [mask]
    _, meta = detection.network_input(batch["frames"], scale=None, divisor=8)
    [truth] = detection.ground_truth(batch, meta, classes=8)
    # Cells of 2 x 2 pixels from the odd columns on: the mask ends at half of the sixth.
    rois = InstanceData(pos_priors=torch.tensor([[1.0, 0, 43, 42]]), pos_assigned_gt_inds=torch.tensor([0]))
    [inside] = build()._mask_truth(rois, truth)
    assert inside.shape == (CELLS, CELLS) and inside[:, :6].all() and not inside[:, 6:].any()
    strict = build(replace(TINY, mask_threshold=0.6))._mask_truth(rois, truth)[0]
    assert strict[:, :5].all() and not strict[:, 5:].any()


# The loss


def test_the_loss_is_the_sum_of_its_parts_and_masks_count_ten_times() -> None:
    losses = build().loss(rectangles(TWO_FRAMES))
    assert set(losses) == {"loss", "rpn_class", "rpn_box", "class", "mask", "box"}
    assert all(part.isfinite() and part > 0 for part in losses.values())
    parts = sum(part for name, part in losses.items() if name != "loss")
    torch.testing.assert_close(losses["loss"], parts + 9 * losses["mask"])


def test_the_loss_is_that_of_the_rois_that_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """One positive RoI, moved by 2 pixels, and one of background: each part by hand."""
    network, batch = build(), rectangles([[(5, (40, 8, 72, 40))]])
    monkeypatch.setattr(network.sampler, "add_gt_as_proposals", False)
    monkeypatch.setattr(network, "_propose", lambda *_: [torch.tensor([[42.0, 8, 74, 40], [0, 0, 32, 64]])])
    monkeypatch.setattr(network.sampler, "num", 4)
    inputs, _ = detection.network_input(batch["frames"], scale=None, divisor=8)
    _, maps = network(inputs)
    scores, masks, deltas = network.assemble(maps, torch.tensor([[0, 42.0, 8, 74, 40], [0, 0, 0, 32, 64]]))
    losses = network.loss(batch)
    expected = (F.cross_entropy(scores[:1], torch.tensor([5])) + F.cross_entropy(scores[1:], torch.tensor([0]))) / 2
    assert losses["class"].item() == pytest.approx(expected.item(), rel=1e-4)
    # The instance ends 30 pixels into the RoI: at cell 19.7 of 21.
    inside = (torch.arange(CELLS) < 20).long().expand(1, CELLS, CELLS)
    assert losses["mask"].item() == pytest.approx(F.cross_entropy(masks[:1, 5], inside).item(), rel=1e-4)
    goal = torch.tensor([-2 / 32 / 0.2, 0, 0, 0])
    assert losses["box"].item() == pytest.approx(
        F.smooth_l1_loss(deltas[0], goal, reduction="sum").item() / 2, rel=1e-4
    )


def test_background_is_learned_from_rois_that_overlap_an_instance_a_little() -> None:
    network = build(replace(TINY, background=(0.1, 0.5), rois=64))
    truth = InstanceData(bboxes=torch.tensor([[10.0, 10, 50, 50]]), labels=torch.tensor([3]))
    proposals = torch.cat([torch.tensor([[x, 10.0, x + 40, 50]]) for x in range(0, 56, 2)])
    sampled = network._sample(proposals, truth)
    truly = [box_iou(box, truth.bboxes[0]) for box in proposals]
    assert len(sampled.neg_priors) == sum(0.1 <= iou < 0.5 for iou in truly) == 10
    assert all(0.1 <= box_iou(box, truth.bboxes[0]) < 0.5 for box in sampled.neg_priors)
    assert all(box_iou(box, truth.bboxes[0]) >= 0.5 for box in sampled.pos_priors)
    assert len(sampled.pos_priors) == 1 + sum(iou >= 0.5 for iou in truly), "the true box joins the proposals"


@pytest.mark.parametrize("frames", [[[], TWO_FRAMES[0]], [[], []]], ids=["one of two", "both"])
def test_frames_without_instances_are_background_to_learn_from(frames: list[Any]) -> None:
    network = build()
    losses = network.loss(rectangles(frames))
    losses["loss"].backward()
    assert losses["rpn_class"] > 0 and losses["class"] > 0
    if not any(frames):
        assert losses["mask"] == losses["box"] == losses["rpn_box"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_frame_without_rois_gives_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build()
    monkeypatch.setattr(network, "_propose", lambda *_: [torch.zeros(0, 4)])
    losses = network.loss(rectangles([[]]))
    losses["loss"].backward()
    assert losses["class"] == losses["mask"] == losses["box"] == 0 and losses["rpn_class"] > 0


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (30, 10, 20, 20)])
def test_a_box_without_area_is_an_error(box: tuple[int, int, int, int]) -> None:
    batch = rectangles([[(1, (0, 0, 5, 5))]])
    batch["boxes"] = [torch.tensor([box], dtype=torch.float32)]
    with pytest.raises(ValueError, match="box without area"):
        build().loss(batch)


# Voting


def bilinear(mask: Tensor, y: float, x: float) -> float:
    """Value of a mask (S, S) at a place from 0 to 1, that of the nearest cell beyond the centres at its border."""
    row, column = (min(max(place * CELLS - 0.5, 0), CELLS - 1) for place in (y, x))
    top, left = min(int(row), CELLS - 2), min(int(column), CELLS - 2)
    down, right = row - top, column - left
    corners = mask[top : top + 2, left : left + 2].tolist()
    upper, lower = (a * (1 - right) + b * right for a, b in corners)
    return upper * (1 - down) + lower * down


def voted_by_loop(
    boxes: Tensor, masks: Tensor, scores: Tensor, kept: list[int], classes: list[int], threshold: float | None
) -> Tensor:
    voted = torch.zeros(len(kept), 28, 28)
    for number, (region, label) in enumerate(zip(kept, classes, strict=True)):
        voters = [voter for voter in range(len(boxes)) if box_iou(boxes[region], boxes[voter]) >= 0.5]
        total = sum(scores[voter, label].item() for voter in voters)
        x1, y1, x2, y2 = boxes[region].tolist()
        for i in range(28):
            for j in range(28):
                y, x = y1 + (i + 0.5) / 28 * (y2 - y1), x1 + (j + 0.5) / 28 * (x2 - x1)
                for voter in voters:
                    left, top, right, bottom = boxes[voter].tolist()
                    if left <= x <= right and top <= y <= bottom:
                        share = bilinear(masks[voter, label], (y - top) / (bottom - top), (x - left) / (right - left))
                        ballot = share if threshold is None else float(share >= threshold)
                        voted[number, i, j] += ballot * scores[voter, label] / total
    return voted


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_masks_are_voted_for_as_in_a_plain_loop(threshold: float | None) -> None:
    random = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[10, 10, 50, 40], [14, 8, 52, 43], [8, 12, 45, 38], [60, 5, 90, 50], [62, 4, 88, 60.0]])
    masks, scores = torch.rand(5, 3, CELLS, CELLS, generator=random), torch.rand(5, 3, generator=random)
    kept, classes = [1, 4], [2, 0]
    got = vote(boxes, masks, scores, torch.tensor(kept), torch.tensor(classes), threshold=threshold)
    expected = voted_by_loop(boxes, masks, scores, kept, classes, threshold)
    # A value may lie within rounding of the threshold.
    assert ((got - expected).abs() > 1e-4).float().mean() < (0.005 if threshold else 1e-9)


def test_a_region_that_nothing_else_overlaps_keeps_its_own_mask() -> None:
    mask = torch.rand(1, 1, CELLS, CELLS)
    voted = vote(
        torch.tensor([[3.0, 4, 40, 50]]),
        mask,
        torch.tensor([[0.3]]),
        torch.tensor([0]),
        torch.tensor([0]),
        threshold=None,
    )
    torch.testing.assert_close(voted, F.interpolate(mask, size=(28, 28), mode="bilinear")[0], atol=1e-5, rtol=1e-4)


# Prediction


def test_proposals_and_the_boxes_refined_from_them_are_both_kept() -> None:
    network = build(replace(TINY, nms=1.0, score_threshold=0.0, regions=1000, smallest=4)).eval()
    group = slice(4 * GROUPS**2, 5 * GROUPS**2)  # the first delta of foreground
    nn.init.zeros_(network.box_maps.weight)
    nn.init.constant_(network.box_maps.bias[group], 0.5)  # type: ignore[index]
    frames = rectangles(TWO_FRAMES)["frames"][:1]
    inputs, meta = network._input(frames)
    with torch.no_grad():
        [proposals] = network._propose(network(inputs)[0], meta)
    [regions] = network.predict(frames)
    assert len(proposals) == 20 and 20 < len(regions.boxes) <= 40
    moved = proposals.clone()
    moved[:, ::2] += 0.5 * 0.2 * (proposals[:, 2] - proposals[:, 0])[:, None]  # half a deviation, of the width
    moved[:, ::2].clamp_(max=96)
    expected = torch.cat([proposals, moved])
    distance = (regions.boxes[:, None] - expected).abs().amax(2)
    assert distance.amin(1).max() < 1e-2, "each region is one of them"
    assert distance[:, :20].amin(1).max() > 0.5 and distance[:, 20:].amin(1).max() > 0.5, "and neither set is all"


def test_the_small_network_learns_two_frames_and_finds_what_is_in_them() -> None:
    batch = rectangles(TWO_FRAMES)
    network = build(fcis.small)
    losses = learn(network, batch, steps=50, learning_rate=1e-3)
    assert losses[-1] < losses[0] / 3
    assert_finds(network.eval().predict(batch["frames"]), batch, threshold=fcis.small.mask_threshold)


def test_a_frame_in_which_nothing_is_found_has_no_regions() -> None:
    [regions] = build(replace(TINY, score_threshold=1.0)).eval().predict(rectangles(TWO_FRAMES)["frames"][:1])
    assert len(regions.boxes) == 0
    assert_well_formed(regions, classes=8)


def test_a_frame_without_proposals_has_no_regions() -> None:
    [regions] = build(replace(TINY, smallest=1000)).eval().predict(rectangles(TWO_FRAMES)["frames"][:1])
    assert len(regions.boxes) == 0


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (40, 200)])
@pytest.mark.parametrize("scale", [None, (48, 90)])
def test_regions_of_any_frame_are_well_formed(size: tuple[int, int], scale: tuple[int, int] | None) -> None:
    frames = rectangles(TWO_FRAMES[:1], height=size[0], width=size[1])["frames"]
    [regions] = build(replace(TINY, score_threshold=0.0, scale=scale)).eval().predict(frames)
    assert len(regions.boxes) > 2
    assert_well_formed(regions, classes=8, height=size[0], width=size[1])


def test_a_frame_s_regions_do_not_depend_on_its_batch() -> None:
    network = build(replace(TINY, score_threshold=0.0)).eval()
    frames = rectangles([*TWO_FRAMES, []])["frames"]
    for frame, expected in zip(frames, network.predict(frames), strict=True):
        [alone] = network.predict(frame[None])
        assert all(torch.equal(getattr(alone, name), getattr(expected, name)) for name in vars(alone))


# Parameters


@pytest.mark.parametrize("config", [fcis.paper, fcis.small], ids=["paper", "small"])
def test_each_parameter_that_learns_is_in_one_group_with_a_rate(config: fcis.Config) -> None:
    with torch.device("meta"):
        network = build(config)
    groups = network.parameter_groups()
    grouped = [parameter for group in groups.values() for parameter in group]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert sum(parameter.numel() for parameter in grouped) == parameter_count(network)
    assert set(groups) == set(config.training.learning_rates)


def test_pretrained_weights_of_the_dilated_network_load() -> None:
    network, pretrained = build(fcis.small), resnet.ResNet(resnet.SMALL)
    load_encoder(network.encoder_slots()["rgb2d"], pretrained.state_dict(), where="rgb2d.pt")  # type: ignore[arg-type]
    assert torch.equal(
        network.state_dict()["encoder.layer4.0.conv2.weight"], pretrained.state_dict()["layer4.0.conv2.weight"]
    )


def coco() -> dict[str, Tensor]:
    """An FCIS that learned COCO; every channel of the score maps holds its class."""
    state = build(labels=detection.COCO).state_dict()
    for key in ("score_maps.weight", "score_maps.bias"):
        classes = torch.arange(81.0).repeat_interleave(2 * GROUPS**2)
        state[key] = classes.view(-1, *[1] * (state[key].dim() - 1)).expand(state[key].shape).clone()
    state["reduce.bias"].fill_(3)
    return state


def test_an_fcis_of_coco_loads_as_it_is_where_its_kinds_are_learned() -> None:
    network = fcis.build(TINY, ACTORS, learned=detection.COCO)
    network.load_coco({"state_dict": coco()}, where="coco.pth")
    assert all(torch.equal(value, coco()[key]) for key, value in network.state_dict().items())
    [regions] = network.eval().predict(rectangles(TWO_FRAMES)["frames"][:1])
    assert_well_formed(regions, classes=8)


def test_for_fine_tuning_each_actor_starts_from_the_maps_of_its_kind() -> None:
    network = build()
    network.load_coco(coco(), where="coco.pth")
    kinds = [0, 1, 1, 33, 15, 3, 16, 17]  # background, person twice, sports ball, bird, car, cat, dog
    assert network.score_maps.bias is not None
    assert network.score_maps.bias.view(8, -1).tolist() == [[kind] * 98 for kind in kinds]
    assert network.score_maps.weight.view(8, 98, -1)[:, :, 0].tolist() == [[kind] * 98 for kind in kinds]
    assert network.reduce.bias is not None and network.reduce.bias.eq(3).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "reduce.bias"}, r"missing keys \['reduce.bias'\] \(1\)"),
        (lambda w: w | {"backbone.x": torch.zeros(1)}, r"unexpected keys \['backbone.x'\] \(1\)"),
        (lambda w: w | {"score_maps.bias": torch.zeros(21 * 98)}, r"other shapes \['score_maps.bias'\] \(1\)"),
    ],
    ids=["missing", "unexpected", "other classes"],
)
def test_weights_that_do_not_fit_are_an_error_that_lists_their_keys(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(ValueError, match=f"mine.pth does not fit.*{message}"):
        build().load_coco(change(coco()), where="mine.pth")


def test_only_reported_classes_vote_and_are_found() -> None:
    """A network of COCO that takes everything for chairs finds no actor; one that sees persons finds adults."""
    for kind, expected in (("chair", set()), ("person", {"adult"})):
        network = fcis.build(TINY, ACTORS, learned=detection.COCO).eval()
        assert network.score_maps.bias is not None
        nn.init.constant_(network.score_maps.bias.view(81, -1)[detection.COCO.index(kind)], 9.0)
        [regions] = network.predict(rectangles(TWO_FRAMES)["frames"][:1])
        assert {ACTORS[int(best)] for best in regions.class_scores.argmax(1)} == expected
