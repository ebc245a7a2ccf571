"""Joint: sizes, what context and flow may change, pairs that cannot occur, untold actions, variants, COCO, learning."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.models.task_modules import AnchorGenerator
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, joint
from models.base import Window, configuration
from models.methods import METHODS, ON_INSTANCES, VARIANTS
from models.parts import detection, maskrcnn, resnet
from models.parts.network import channels_last, load_encoder, parameter_count
from models.parts.region_types import InstanceBatch
from stages.core.datasets.labels import A2D
from tests.help.rectangles import box_iou
from tests.help.small_joints import (  # fmt: skip
    DETECTOR,
    RGB,
    TINY,
    TWO_WINDOWS,
    Pairs,
    assert_well_formed,
    batch,
    build,
    changed,
    detected,
    differing,
    losses,
    of_head,
    variant,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# Sizes


@pytest.mark.parametrize(
    ("inputs", "count"),
    # SSA2D's paper says 44 M and 88 M, which is one or two ResNet-101s: see the module's docstring
    [("rgb", 77_463_620), ("rgb+flow", 136_940_676)],
)
def test_the_paper_s_parameters_are_a_mask_r_cnn_s_and_those_of_flow_and_actions(inputs: str, count: int) -> None:
    with torch.device("meta"):
        network = joint.build(joint.with_inputs(joint.paper, inputs), A2D)
        actors = maskrcnn.build(maskrcnn.paper, A2D.actors)
    streams = inputs.count("+") + 1
    pyramid = 256 * (256 + 512 + 1024 + 2048) + 4 * 256 * (9 * 256) + 8 * 256
    temporal = 4 * (3 * 256 * 256 + 256)
    head = 49 * 256 * streams * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10
    expected = parameter_count(actors) + (streams - 1) * (42_500_160 + pyramid) + streams * temporal + head
    assert parameter_count(network) == count == expected


def test_the_small_networks_sizes_are_known() -> None:
    with torch.device("meta"):
        counts = [parameter_count(joint.build(joint.with_inputs(joint.small, i), A2D)) for i in ("rgb", "rgb+flow")]
    assert counts == [1_881_116, 3_154_580]


def test_the_paper_s_training_and_thresholds_are_those_of_paper_and_released_code() -> None:
    training, detector = joint.paper.training, joint.paper.detector
    assert (training.optimiser, set(training.learning_rates.values()), training.clip_norm) == ("sgd", {2e-4}, 5.0)
    assert (detector.score_threshold, joint.paper.action_threshold) == (0.7, 0.3)
    assert (detector.nms, detector.regions, joint.paper.mask_threshold) == (0.3, 100, 0.5)
    assert set(joint.paper.loss_weights.values()) == {1.0}


def test_joint_is_a_method_that_learns_from_instances_and_has_the_variants_that_runs_may_name() -> None:
    assert set(ON_INSTANCES) == {"joint"} <= set(METHODS) and tuple(joint.VARIANTS) == VARIANTS["joint"]


@pytest.mark.parametrize(("inputs", "slots"), [("rgb", ["rgb2d"]), ("rgb+flow", ["rgb2d", "flow2d"])])
def test_each_parameter_is_in_one_group_and_each_stream_starts_from_its_encoder(inputs: str, slots: list[str]) -> None:
    network = build(joint.with_inputs(joint.small, inputs))
    groups = network.parameter_groups()
    grouped = [parameter for group in groups.values() for parameter in group]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(network.parameters())
    assert set(groups) == set(joint.small.training.learning_rates) == set(joint.paper.training.learning_rates)
    assert list(network.encoder_slots()) == slots
    for slot in network.encoder_slots().values():
        pretrained = resnet.ResNet(resnet.SMALL).state_dict()
        load_encoder(slot, pretrained, where="pretrained.pt")  # type: ignore[arg-type]
        assert set(groups["encoder"]) >= set(slot.parameters())
        assert torch.equal(slot.state_dict()["layer4.0.conv2.weight"], pretrained["layer4.0.conv2.weight"])


def test_building_a_network_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    build()
    assert capfd.readouterr() == ("", "")


# What cannot be run


def test_flow_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"found by their appearance.*run it with rgb or rgb"):
        joint.with_inputs(TINY, "flow")


@pytest.mark.parametrize("name", ["late_fusion", "rois_from_both"])
def test_a_variant_of_two_streams_without_flow_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs two streams: run it with rgb\\+flow"):
        configuration(joint, "small", inputs="rgb", variant=name)


def test_an_unknown_fusion_or_a_window_without_context_is_an_error() -> None:
    with pytest.raises(ValueError, match="fusion `early` is neither `mid` nor `late`"):
        replace(TINY, fusion="early")
    with pytest.raises(ValueError, match="1 temporal convolutions see as many frames before and after"):
        replace(TINY, window=Window(before=1))


@pytest.mark.parametrize("action", [0, 10])
def test_an_action_that_is_none_is_an_error(action: int) -> None:
    given = batch()
    with pytest.raises(ValueError, match="write 1 to 9, or 255 where nobody told"):
        build().loss(changed(given, actions=[torch.tensor([7, action]), given["actions"][1]]))


# Loss


@pytest.mark.parametrize("inputs", ["rgb", "rgb+flow"])
def test_the_loss_is_the_weighted_sum_of_its_parts(inputs: str) -> None:
    config = joint.with_inputs(TINY, inputs)
    weights = {name: 2.0 + number for number, name in enumerate(config.loss_weights)}
    found = losses(build(replace(config, loss_weights=weights)), batch())
    assert set(found) == {"loss", "rpn_cls", "rpn_bbox", "actor", "box", "action", "mask"}
    assert all(part.isfinite() and part > 0 for part in found.values())
    expected = sum(weights[name] * part for name, part in found.items() if name != "loss")
    torch.testing.assert_close(found["loss"], expected)


@pytest.mark.parametrize("windows", [[[], TWO_WINDOWS[0]], [[], []]], ids=["one of two", "both"])
def test_frames_without_an_actor_are_background_to_learn_from(windows: list[Pairs]) -> None:
    network = build()
    found = network.loss(batch(windows))
    found["loss"].backward()
    assert all(found[name] > 0 for name in ("rpn_cls", "actor", "action"))
    if not any(windows):
        assert found["mask"] == found["box"] == found["rpn_bbox"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_frame_may_have_nineteen_actors() -> None:
    pairs = [17, 28, 56, 75]
    crowd = [
        (pairs[n % 4], (4 + 9 * (n % 10), 4 + 30 * (n // 10), 12 + 9 * (n % 10), 30 + 30 * (n // 10)))
        for n in range(19)
    ]
    found = build().loss(batch([crowd, []]))
    assert all(part.isfinite() and part > 0 for part in found.values())


def logits_of_actions(network: joint.Joint, given: InstanceBatch) -> tuple[Tensor, Tensor]:
    """Gradient of the action loss at the action head's logits (R, K), and the probabilities (R, K)."""
    seen: list[Tensor] = []
    hook = network.heads[0].register_forward_hook(lambda module, inputs, logits: seen.append(logits))
    action = losses(network, given)["action"]
    hook.remove()
    (gradient,) = torch.autograd.grad(action, seen[0])
    return gradient, seen[0].softmax(1)


def test_an_untold_action_teaches_the_action_head_nothing() -> None:
    """RoIs of the first actor have no gradient; those of the others and of background have, and the mean is theirs."""
    network, given = build(), batch()
    untold = changed(given, actions=[torch.tensor([IGNORE, 6]), given["actions"][1]])
    (before, _), (gradient, probabilities) = (logits_of_actions(network, x) for x in (given, untold))
    assert before.any(1).all(), "told, each RoI teaches"
    silent = ~gradient.any(1)
    of_first = before[:, 7] < 0  # running is made likelier: RoIs of the first actor
    assert 0 < of_first.sum() < len(before) and torch.equal(silent, of_first)
    one_hot = probabilities - gradient * (~silent).sum()
    torch.testing.assert_close(one_hot[~silent].round(), one_hot[~silent], atol=1e-4, rtol=0)
    assert set(one_hot[~silent].argmax(1).tolist()) == {0, 6, 5}


def test_an_actor_without_a_told_action_is_still_learned() -> None:
    network, given = build(), batch()
    untold = changed(given, actions=[torch.full_like(actions, IGNORE) for actions in given["actions"]])
    assert differing(losses(network, given), losses(network, untold)) == {"action", "loss"}


def test_a_pair_that_cannot_occur_teaches_as_an_actor_whose_action_nobody_told() -> None:
    network, given = build(), batch()
    flying, untold = (changed(given, actions=[torch.tensor([x, 6]), given["actions"][1]]) for x in (4, IGNORE))
    assert differing(losses(network, flying), losses(network, untold)) == set()
    climbing = changed(given, actions=[torch.tensor([1, 6]), given["actions"][1]])
    assert differing(losses(network, climbing), losses(network, untold)) == {"action", "loss"}


# What context and flow change


def with_other_context(given: InstanceBatch, position: int) -> InstanceBatch:
    """Another frame, and other flow, at ``position`` of each window."""
    frames, flow = given["frames"].clone(), given["flow"].clone()
    frames[:, position], flow[:, position] = 255 - frames[:, position], -flow[:, position]
    return changed(given, frames=frames, flow=flow)


@pytest.mark.parametrize("position", [0, 2])
def test_context_frames_change_the_action_and_nothing_else(position: int) -> None:
    network, given = build().eval(), batch()
    other = with_other_context(given, position)
    assert differing(losses(network, given), losses(network, other)) == {"action", "loss"}
    assert differing(detected(network, given), detected(network, other)) == {"action_scores"}


def test_without_temporal_aggregation_context_changes_nothing() -> None:
    network, given = build(replace(TINY, temporal_layers=0)).eval(), batch()
    other = with_other_context(with_other_context(given, 0), 2)
    assert differing(losses(network, given), losses(network, other)) == set()
    assert differing(detected(network, given), detected(network, other)) == set()


def test_without_temporal_aggregation_a_window_is_one_frame() -> None:
    network = build(variant("without_temporal"))
    given = batch(length=1)
    assert network.config.window.length == 1 and not list(network.temporal.parameters())
    assert network.loss(given)["loss"].isfinite()
    assert_well_formed(network.eval().detect(given)[0])
    with pytest.raises(AssertionError, match="3 frames where the window has 1"):
        network.loss(batch())


def test_flow_changes_the_action_and_nothing_else() -> None:
    network, given = build().eval(), batch()
    other = changed(given, flow=given["flow"] * 2)
    assert differing(losses(network, given), losses(network, other)) == {"action", "loss"}
    assert differing(detected(network, given), detected(network, other)) == {"action_scores"}


def test_a_run_on_rgb_needs_no_flow_and_takes_no_notice_of_any() -> None:
    network, given = build(RGB).eval(), batch()
    without = InstanceBatch(frames=given["frames"])
    assert differing(detected(network, given), detected(network, without)) == set()


def test_the_temporal_convolution_is_linear_and_sees_frames_in_their_order_level_by_level() -> None:
    network, given = build(RGB).eval(), batch()
    with torch.no_grad():
        for layers in network.temporal["rgb"]:
            nn.init.zeros_(layers[0].weight)
            nn.init.zeros_(layers[0].bias)
            layers[0].weight[:, :, 2, 0, 0] = -torch.eye(16)
        maps, _ = network._pyramids(given["frames"], None)
        after, _ = network._pyramids(given["frames"].roll(-1, dims=1), None)
    assert len(maps.action) == 4 and [level.shape[2:] for level in maps.action] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    for action, appearance in zip(maps.action, after.appearance, strict=True):
        torch.testing.assert_close(action, -appearance)


def test_of_a_longer_window_the_frames_around_the_labelled_one_are_seen() -> None:
    long, short = build(replace(TINY, window=Window(before=2, after=3))).eval(), build().eval()
    given = batch(length=6)
    middle = InstanceBatch(frames=given["frames"][:, 1:4], flow=given["flow"][:, 1:4])
    assert differing(detected(long, given), detected(short, middle)) == set()


def test_streams_are_fused_level_by_level_before_rois_are_pooled() -> None:
    network, given = build().eval(), batch()
    with torch.no_grad():
        maps, _ = network._pyramids(given["frames"], given["flow"])
        alone, _ = network._pyramids(given["frames"], given["flow"] * 0)
    for level, other in zip(maps.action, alone.action, strict=True):
        assert level.shape[1] == 32 and torch.equal(level[:, :16], other[:, :16])
        assert not torch.equal(level[:, 16:], other[:, 16:])
    assert network.heads[0][1].in_features == 32 * 49


@pytest.mark.parametrize("name", ["full", "rois_from_both"])
def test_maps_lie_in_memory_as_mmcv_s_roi_align_reads_them(name: str) -> None:
    """Channels first, also where the network's weights and the frames have them last."""
    network = channels_last(build(TINY if name == "full" else variant(name))).eval()
    given = batch()
    maps, _ = network._pyramids(given["frames"], given["flow"])
    assert all(level.is_contiguous() for levels in (maps.appearance, maps.action) for level in levels)


# Variants


def test_late_fusion_averages_the_probabilities_of_heads_that_see_one_stream_each() -> None:
    network, given = build(variant("late_fusion")).eval(), batch()
    rois = torch.tensor([[0, 8.0, 10, 40, 42], [1, 0, 0, 96, 64]])
    with torch.no_grad():
        maps, _ = network._pyramids(given["frames"], given["flow"])
        streams = network.roi_align_an(maps.action, rois).split(16, dim=1)
        for head, x, found in zip(network.heads, streams, network._recognise(maps.action, rois).exp(), strict=True):
            torch.testing.assert_close(found, head(x).softmax(1))
    for number, action in enumerate((3, 5)):
        of_head(network, {action: 20.0}, number=number)
    found = detected(network, given)["action_scores"]
    torch.testing.assert_close(found, (F.one_hot(torch.tensor([3, 5]), 10).sum(0) / 2).expand_as(found))


def test_in_late_fusion_a_stream_learns_the_same_whatever_the_other_is_sure_of() -> None:
    network, given = build(variant("late_fusion")), batch([[(17, (8, 10, 40, 42))]])

    def learned(said: int) -> dict[str, Tensor]:
        of_head(network, {said: 20.0})
        network.zero_grad()
        losses(network, given)["action"].backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    right, wrong = learned(7), learned(2)
    assert {"flow", "heads"} <= {name.partition(".")[0] for name in right}
    assert right["heads.1.1.weight"].abs().max() > 0
    assert "heads.0.5.bias" in differing(right, wrong)
    assert not {name for name in differing(right, wrong) if name.startswith(("flow.", "temporal.flow", "heads.1."))}


def test_rois_from_both_streams_heed_flow_and_the_other_heads_do_not() -> None:
    network, given = build(variant("rois_from_both")).eval(), batch()
    other = changed(given, flow=given["flow"] * 2)
    assert {"rpn_cls", "rpn_bbox"} <= differing(losses(network, given), losses(network, other))
    assert network.detector.rpn_head.rpn_conv.in_channels == 32
    with torch.no_grad():
        first, second = (network._pyramids(x["frames"], x["flow"])[0] for x in (given, other))
    assert all(torch.equal(*levels) for levels in zip(first.appearance, second.appearance, strict=True))


def test_in_a_joint_space_one_head_learns_pairs() -> None:
    network, given = build(variant("joint_space")), batch()
    found = losses(network, given)
    assert set(found) == {"loss", "rpn_cls", "rpn_bbox", "box", "mask", "pair"}
    assert not [name for name, _ in network.named_parameters() if "fc_cls" in name]
    assert network.heads[0][-1].out_features == 44
    untold = changed(given, actions=[torch.full_like(actions, IGNORE) for actions in given["actions"]])
    assert differing(found, losses(network, untold)) == {"loss", "pair"}
    of_head(network, {A2D.valid_ids.index(17): 20.0})
    sure = losses(network, given)["pair"]
    of_head(network, {A2D.valid_ids.index(0): 20.0})
    assert losses(network, untold)["pair"] < 0.01 < sure, "what is left without them is background"


def test_in_a_joint_space_scores_of_actors_and_actions_are_marginals_of_pairs() -> None:
    network = build(variant("joint_space")).eval()
    logits = {A2D.valid_ids.index(pair): value for pair, value in ((0, 2.0), (17, 3.0), (18, 2.5), (77, 1.0))}
    of_head(network, logits)
    scores = torch.zeros(44)
    scores[list(logits)] = torch.tensor(list(logits.values()))
    probabilities = dict(zip(A2D.valid_ids, scores.softmax(0).tolist(), strict=True))
    found = detected(network, batch())
    for scores_of, part in (("actor_scores", lambda pair: pair // 10), ("action_scores", lambda pair: pair % 10)):
        expected = torch.zeros(found[scores_of].shape[1])
        for pair, probability in probabilities.items():
            expected[part(pair)] += probability
        torch.testing.assert_close(found[scores_of][0], expected)


@pytest.mark.parametrize("name", ["full", *joint.VARIANTS])
def test_every_variant_gives_gradient_to_every_parameter(name: str) -> None:
    config = TINY if name == "full" else variant(name)
    assert (config == TINY) == (name == "full")
    network = build(config)
    network.loss(batch(length=config.window.length))["loss"].backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


# COCO


def coco_checkpoint() -> dict[str, Tensor]:
    """A Mask R-CNN of COCO's kinds; each row of its last layers holds its own number."""
    torch.manual_seed(1)
    weights = maskrcnn.build(DETECTOR, detection.COCO).detector.state_dict()
    for layer in ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits"):
        for key in (f"roi_head.{layer}.weight", f"roi_head.{layer}.bias"):
            weights[key] = (
                torch.arange(float(len(weights[key]))).view(-1, *[1] * (weights[key].dim() - 1)).expand_as(weights[key])
            )
    return weights


KINDS = [0, 0, 32, 14, 2, 15, 16]
"""Person twice, sports ball, bird, car, cat, dog, as mmdet counts."""


@pytest.mark.parametrize("name", ["full", *joint.VARIANTS])
def test_a_checkpoint_of_coco_starts_the_appearance_stream_and_the_heads_of_actors_alone(name: str) -> None:
    config = TINY if name == "full" else variant(name)
    network, checkpoint = build(config), coco_checkpoint()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_coco({"meta": {}, "state_dict": checkpoint}, where="coco.pth")
    changed_keys = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert all(key.startswith("detector.") for key in changed_keys)
    assert {"detector.backbone.conv1.weight", "detector.neck.lateral_convs.0.conv.weight"} <= changed_keys
    head = network.detector.roi_head
    assert head.mask_head.conv_logits.bias.tolist() == KINDS
    assert head.bbox_head.fc_reg.bias.tolist() == [4 * kind + side for kind in KINDS for side in range(4)]
    if name != "joint_space":
        assert head.bbox_head.fc_cls.bias.tolist() == [*KINDS, 80]
    rpn = network.detector.rpn_head.rpn_conv.weight
    assert torch.equal(rpn[:, :16], checkpoint["rpn_head.rpn_conv.weight"])
    assert not rpn[:, 16:].any(), "of flow the RPN takes no notice at first"


def test_a_checkpoint_that_does_not_fit_is_an_error_that_lists_its_keys() -> None:
    with pytest.raises(ValueError, match=r"coco.pth does not fit.*unexpected keys \['flow.x'\]"):
        build().load_coco(coco_checkpoint() | {"flow.x": torch.zeros(1)}, where="coco.pth")


# Learning


def steps_of_training(network: joint.Joint, given: InstanceBatch, *, steps: int, rate: float = 2e-3) -> list[float]:
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    found = []
    for _ in range(steps):
        loss = network.loss(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), network.config.training.clip_norm)
        optimiser.step()
        found.append(loss.item())
    return found


def test_actors_that_look_alike_are_told_apart_by_their_motion() -> None:
    """Two adults of one colour, one moves to the right and walks, the other to the left and runs."""
    left, right = (8, 12, 40, 44), (56, 12, 88, 44)
    given = batch([[(18, left), (17, right)], [(17, left), (18, right)]])
    for flow, (first, second) in zip(given["flow"], ((3.0, -3.0), (-3.0, 3.0)), strict=True):
        flow *= 0.1
        for (x1, y1, x2, y2), speed in ((left, first), (right, second)):
            flow[:, y1:y2, x1:x2, 0], flow[:, y1:y2, x1:x2, 2] = speed, abs(speed)
    network = build(replace(TINY, detector=replace(DETECTOR, score_threshold=0.3)))
    steps_of_training(network, given, steps=60, rate=5e-3)
    for found, boxes, actions in zip(network.eval().detect(given), given["boxes"], given["actions"], strict=True):
        assert len(found.scores) == 2
        for box, action in zip(boxes, actions, strict=True):
            [mine] = [n for n, other in enumerate(found.boxes) if box_iou(other, box) > 0.5]
            assert found.actor_scores[mine].argmax() == 1 and found.action_scores[mine].argmax() == action
    painted = network.predict(given).joint
    assert painted[0, 28, 24] == 18 and painted[0, 28, 72] == 17 and painted[1, 28, 24] == 17 and painted[0, 2, 2] == 0


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in double precision: rounding decides which RoIs are drawn. Only mmcv's NMS has but single."""
    nms = importlib.import_module("mmcv.ops.nms")
    single = nms.ext_module.nms

    def in_single(boxes: Tensor, scores: Tensor, **how: Any) -> Tensor:
        return single(boxes.to(torch.float32), scores.to(torch.float32), **how)

    monkeypatch.setattr(nms, "ext_module", SimpleNamespace(nms=in_single))
    monkeypatch.setattr(AnchorGenerator, "grid_priors", partialmethod(AnchorGenerator.grid_priors, dtype=torch.float64))
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("inputs", "golden"),
    [
        ("rgb", [6.07179, 4.17545, 2.42532, 2.16217, 1.78676]),
        ("rgb+flow", [6.18329, 4.13886, 3.17657, 2.44485, 2.4141]),
    ],
)
def test_the_first_five_losses_of_the_small_network_are_those_recorded(
    float64: None, inputs: str, golden: list[float]
) -> None:
    given = batch()
    given = changed(given, boxes=[boxes.double() for boxes in given["boxes"]], flow=given["flow"].double())
    network = build(joint.with_inputs(joint.small, inputs))
    assert steps_of_training(network, given, steps=5) == pytest.approx(golden, abs=1e-3)
