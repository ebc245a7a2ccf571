"""SSA2D: published sizes and shapes, two streams, section 3.4's infusion and masking, frames, variants."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, ssa2d
from models.base import Batch, Labels, PairScores, Predictions
from models.methods import VARIANTS
from models.parts import i3d
from models.parts.network import load_encoder, parameter_count
from stages.core.datasets.labels import A2D
from stages.core.training.loop import learning_rate_factor
from tests.help.noise_clips import (  # fmt: skip
    LABELLED,
    SEVERAL,
    STEP,
    TINY,
    TWO_STREAMS,
    answering,
    at_step,
    batch,
    build,
    several_at_once,
    some_logits,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network(one_thread: None) -> ssa2d.SSA2D:
    """A very small network in evaluation; its batch statistics come from one batch."""
    network = build(TINY).train()
    with torch.no_grad():
        for _ in range(30):
            network(batch())
    return network.eval()


def on_meta(config: ssa2d.Config) -> ssa2d.SSA2D:
    """The network without its weights: for counts and shapes."""
    with torch.device("meta"):
        return ssa2d.build(config, A2D)


def side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, ., S, h, w) and coarser ones, brought to the first's size, as one."""
    return torch.cat([F.interpolate(x, size=list(maps[0].shape[2:]), mode="nearest") for x in maps], dim=1)


def seen_by(network: nn.Module, modules: Sequence[nn.Module], *arguments: Any, **named: Any) -> list[Any]:
    """What each of ``modules`` is given when ``network`` runs."""
    seen: dict[nn.Module, Any] = {}
    hooks = [m.register_forward_pre_hook(lambda m, inputs: seen.__setitem__(m, inputs[0])) for m in modules]
    with torch.no_grad():
        network(*arguments, **named)
    for hook in hooks:
        hook.remove()
    return [seen[module] for module in modules]


# Sizes and shapes


@pytest.mark.parametrize(("inputs", "count", "published"), [("rgb", 34_841_396, 35e6), ("rgb+flow", 56_933_140, 55e6)])
def test_the_paper_s_sizes_are_within_5_percent_of_the_published(inputs: str, count: int, published: float) -> None:
    found = parameter_count(on_meta(ssa2d.with_inputs(ssa2d.paper, inputs)))
    assert found == count
    assert abs(found / published - 1) < 0.05


@pytest.mark.parametrize(("inputs", "count"), [("rgb", 2_032_212), ("flow", 2_026_724), ("rgb+flow", 3_323_180)])
def test_the_small_network_s_size_is_known(inputs: str, count: int) -> None:
    assert parameter_count(on_meta(ssa2d.with_inputs(ssa2d.small, inputs))) == count


@pytest.mark.parametrize(("inputs", "streams"), [("rgb", 1), ("rgb+flow", 2)])
def test_the_paper_s_shapes_for_16_frames_of_224(inputs: str, streams: int) -> None:
    network = on_meta(ssa2d.with_inputs(ssa2d.paper, inputs)).eval()
    with torch.device("meta"):
        clip = Batch(frames=torch.zeros(1, 16, 224, 224, 3, dtype=torch.uint8), flow=torch.zeros(1, 16, 224, 224, 2))
    shapes = [tuple(x.shape) for x in network.encoders(clip)]
    assert shapes == [(1, streams * 832, 4, 14, 14), (1, streams * 192, 8, 56, 56), (1, streams * 480, 8, 28, 28)]
    actor, action, mask = network(clip)
    assert actor.shape == (1, 8, 8, 56, 56) and action.shape == (1, 10, 8, 56, 56)
    assert mask.shape == (1, 2, 8, 112, 112)


def test_the_paper_s_gate_is_4_x_56_x_56_and_each_of_its_steps_stands_for_two() -> None:
    mask = torch.randn(1, 2, 8, 112, 112)
    gate = on_meta(ssa2d.paper)._gate(mask, None, size=torch.Size((8, 56, 56)))
    coarse = F.max_pool3d(mask.softmax(1)[:, 1:], 2)
    assert coarse.shape == (1, 1, 4, 56, 56)
    assert torch.equal(gate[:, :, ::2], coarse) and torch.equal(gate[:, :, 1::2], coarse)


def test_the_paper_s_training_is_that_of_section_3_6() -> None:
    training = ssa2d.paper.training
    assert (training.batch, training.optimiser) == (14, "adam")
    assert training.learning_rates == {"encoder": 1e-4, "rest": 1e-4}
    assert training.schedule == f"step:{round(5 * 9561 / 14)}:0.1", "1e-5 after five epochs"
    assert training.steps == math.ceil(11 * 9561 / 14)
    assert ssa2d.paper.loss_weights == {"actor": 1.3, "action": 1.3, "mask": 0.3}
    assert ssa2d.paper.background_weight == 1
    assert ssa2d.paper.window.length == 16 and ssa2d.paper.crop == (224, 224)


@pytest.mark.parametrize(("height", "width", "frames"), [(101, 77, 8), (33, 64, 7), (48, 64, 5), (32, 48, 16)])
@pytest.mark.parametrize("inputs", ["rgb", "rgb+flow"])
def test_odd_sizes_and_lengths_are_predicted_and_learnt_from(inputs: str, height: int, width: int, frames: int) -> None:
    network, given = build(ssa2d.with_inputs(TINY, inputs)).eval(), batch(height, width, frames=frames)
    predicted = network.predict(given)
    assert isinstance(predicted, Predictions)
    for found in (predicted.joint, predicted.actor, predicted.action):
        assert found.shape == (2, height, width) and found.dtype == torch.uint8
    assert network.predict_frames(given, range(frames)).actor.shape == (2 * frames, height, width)
    assert network.loss(given)["loss"].isfinite()


def test_the_three_decoders_share_no_weight() -> None:
    network = build()
    decoders = [nn.ModuleList([network.trunks[name], network.atrous[name]]) for name in ("actor", "action", "mask")]
    own = [parameter for decoder in decoders for parameter in decoder.parameters()]
    assert len({parameter_count(decoder) for decoder in decoders}) == 1 and len(own) == len(set(own))


def test_with_a_shared_trunk_the_decoders_share_their_deconvolutions_and_nothing_else() -> None:
    full, shared = build(), build(ssa2d.VARIANTS["shared_trunk"](TINY)).eval()
    assert parameter_count(full) - parameter_count(shared) == 2 * parameter_count(full.trunks["actor"])
    actor, action, mask = seen_by(shared, list(shared.atrous.values()), batch())
    assert actor is action is mask


# Two streams


def test_two_streams_share_what_lies_behind_mixed_3c_and_nothing_before_it() -> None:
    """As if each had a whole network, of equal weights behind Mixed_3c; encodings and skips are put side by side."""
    network, given = build(TWO_STREAMS).eval(), batch()
    config = replace(TINY.encoder, inputs=2)
    flow = i3d.I3D(config).eval()
    own = network.encoders.others["flow"].state_dict()
    behind = {key: value for key, value in network.encoders.first.state_dict().items() if key not in own}
    assert {key.split(".")[0] for key in behind} == {key for key in flow.endpoints[7:] if key.startswith("Mixed")}
    flow.load_state_dict(own | behind)
    clips = (given["frames"].float() / 127.5 - 1, given["flow"])
    rgb, moving = (
        encoder(clip.permute(0, 4, 1, 2, 3), ("Conv3d_2c_3x3", "Mixed_3c", "Mixed_5b"))
        for encoder, clip in zip((network.encoders.first, flow), clips, strict=True)
    )
    for found, name in zip(network.encoders(given), ("Mixed_5b", "Conv3d_2c_3x3", "Mixed_3c"), strict=True):
        assert torch.allclose(found, torch.cat([rgb[name], moving[name]], dim=1), atol=1e-5)
    stems = [set(encoder.parameters()) for encoder in network.encoder_slots().values()]
    assert not stems[0] & stems[1]


@pytest.mark.parametrize("inputs", ["rgb", "flow", "rgb+flow"])
def test_each_stream_sees_its_own_input(inputs: str) -> None:
    network, given = build(ssa2d.with_inputs(TINY, inputs)).eval(), batch()
    if inputs == "rgb":
        del given["flow"]
    with torch.no_grad():
        actor = network(given)[0]
        for stream, key in (("rgb", "frames"), ("flow", "flow")):
            changed: Any = given | ({key: given[key] // 2} if key in given else {})  # type: ignore[literal-required]
            assert torch.equal(network(changed)[0], actor) != (stream in inputs.split("+"))


def test_the_encodings_and_skips_of_both_streams_reach_each_decoder() -> None:
    network = build(TWO_STREAMS).eval()
    for trunk, atrous in zip(network.trunks.values(), network.atrous.values(), strict=True):
        encoded = [x.detach().requires_grad_() for x in network.encoders(batch())]
        atrous(trunk(*encoded)[0]).square().sum().backward()
        for x in encoded:
            assert x.grad is not None
            assert all(stream.any() for stream in x.grad.chunk(2, dim=1))


def test_public_flow_weights_load_up_to_mixed_3c_and_leave_the_shared_layers_alone() -> None:
    network = build(TWO_STREAMS)
    before = {key: value.clone() for key, value in network.encoders.first.state_dict().items()}
    public = i3d.I3D(i3d.Config(inputs=2, width=0.07)).state_dict() | {"logits.conv3d.bias": torch.zeros(400)}
    slots = network.encoder_slots()
    load_encoder(slots["flow3d"], public, where="flow_imagenet.pt")  # type: ignore[arg-type]
    loaded = slots["flow3d"].state_dict()
    assert set(slots) == {"rgb3d", "flow3d"}
    assert "Mixed_3c.b0.conv3d.weight" in loaded and "Mixed_4b.b0.conv3d.weight" not in loaded
    assert all(torch.equal(value, public[key]) for key, value in loaded.items())
    assert all(torch.equal(value, before[key]) for key, value in network.encoders.first.state_dict().items())


def test_one_stream_has_one_slot_for_the_whole_of_its_encoder() -> None:
    slots = build(ssa2d.with_inputs(TINY, "flow")).encoder_slots()
    assert list(slots) == ["flow3d"] and slots["flow3d"].state_dict()["Conv3d_1a_7x7.conv3d.weight"].shape[1] == 2
    assert list(build().encoder_slots()) == ["rgb3d"]


# AP-infusion, the pyramid, atrous convolutions, the non-local block


@pytest.mark.parametrize("variant", ["full", "infusion_by_addition", "without_actor_prior"])
def test_the_actor_s_features_are_infused_into_the_action_s(variant: str) -> None:
    """Networks of one seed differ from the infusion on, so one without it tells what the action's features are."""
    plain = build(replace(TINY, infusion="none")).eval()
    network = build(TINY if variant == "full" else ssa2d.VARIANTS[variant](TINY)).eval()
    alone, prior = seen_by(plain, [plain.infuse, plain.actor], batch())
    infused, out, same = seen_by(network, [network.infuse, network.action, network.actor], batch())
    pairs = list(zip(alone, prior, strict=True))  # the features, and their coarser map
    together = {"full": [torch.cat(pair, dim=1) for pair in pairs], "infusion_by_addition": [x + y for x, y in pairs]}
    expected = together.get(variant, alone)
    assert all(map(torch.equal, same, prior)) and all(map(torch.equal, infused, expected))
    seen = side_by_side(infused)
    mixed = torch.einsum("oi,bithw->bothw", network.infuse.weight.flatten(1), seen) / math.sqrt(1 + 1e-3)
    assert torch.allclose(out.chunk(2, dim=1)[1], mixed.relu(), atol=1e-5)


def test_atrous_convolutions_reach_as_far_as_their_rates_and_keep_time_together() -> None:
    """The one pixel that is given reaches the pixel ``rate`` beside it, and none between (behind the 3 x 3 x 3 one)."""
    atrous = build(replace(TINY, rates=(3, 6, 9, 12))).atrous["actor"].eval()
    x = torch.zeros(1, 8, 5, 41, 41)
    x[:, :, 2, 20, 20] = 1
    for branch, rate in zip(atrous.branches, (3, 6, 9, 12), strict=True):  # type: ignore[arg-type]
        changed = (branch[0](x) != branch[0](torch.zeros_like(x))).any(1)[0].nonzero().tolist()
        reached = (20 - rate, 20, 20 + rate)
        assert changed == [[t, row, column] for t in (1, 2, 3) for row in reached for column in reached]


def test_without_atrous_convolutions_as_many_plain_ones_take_their_place() -> None:
    config = ssa2d.VARIANTS["without_atrous"](ssa2d.paper)
    network = on_meta(config)
    assert parameter_count(network) == parameter_count(on_meta(ssa2d.paper))
    assert {m.dilation for m in network.modules() if isinstance(m, nn.Conv3d)} == {(1, 1, 1)}


def test_the_pyramid_brings_the_coarser_map_beside_the_features_and_without_it_there_is_none(
    network: ssa2d.SSA2D,
) -> None:
    trunk = network.trunks["actor"]
    (half,), (features,) = seen_by(network, [trunk.side], batch()), seen_by(network, [network.actor], batch())  # type: ignore[list-item]
    with torch.no_grad():
        side = trunk.side(half)  # type: ignore[operator]
    assert side.shape == (2, 4, 2, 4, 6) and torch.equal(features[1], side)
    flat = build(ssa2d.VARIANTS["without_multi_scale"](TINY)).eval()
    assert all(trunk.side is None for trunk in flat.trunks.values())
    (without,) = seen_by(flat, [flat.actor], batch())
    assert len(without) == 1 and without[0].shape[1] == sum(TINY.atrous) == features[0].shape[1]


@pytest.mark.parametrize("size", [(4, 8, 12), (3, 5, 7)])
def test_a_coarser_map_convolved_before_its_pixels_are_repeated_is_the_repeated_one_convolved(
    size: tuple[int, int, int],
) -> None:
    maps = [torch.rand(2, 6, *size), torch.rand(2, 4, *(-(-length // 2) for length in size))]
    pointwise = ssa2d.Pointwise(10, 3)
    expected = F.conv3d(side_by_side(maps), pointwise.weight, pointwise.bias)
    assert torch.allclose(pointwise(maps), expected, atol=1e-5)


def test_the_non_local_block_adds_what_every_position_sees_in_all_others() -> None:
    block = build(ssa2d.VARIANTS["non_local"](TINY)).encoders.non_local
    assert block is not None
    x = torch.rand(1, TINY.encoder.channels("Mixed_5b"), 2, 2, 3)
    with torch.no_grad():
        found = block.eval()(x)[0].flatten(1).T
        reduced = block.reduce(x)
        query, key, value = (layer(reduced)[0].flatten(1).T for layer in (block.theta, block.phi, block.g))
        for i in range(12):
            attention = [math.exp(float(query[i] @ key[j])) for j in range(12)]
            seen = sum((attention[j] / sum(attention) * value[j] for j in range(12)), torch.zeros(block.channels))
            assert torch.allclose(found[i], reduced[0].flatten(1).T[i] + seen, atol=1e-4)


# SSA-masking


def known_at(step: int, value: int, *, steps: int = 4) -> Tensor:
    """(B, S, H, W): the true mask of one step, nothing known of the others."""
    mask = torch.full((2, steps, 32, 48), IGNORE)
    mask[:, step] = value
    return mask


def gated(network: ssa2d.SSA2D, true_mask: Tensor | None, *, frames: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """What SSA-masking gives the action's classifier, masked and plain; the predicted mask (B, 1, S, h, w)."""
    (both,) = seen_by(network, [network.action], batch(frames=frames), true_mask=true_mask)
    with torch.no_grad():
        probability = network(batch(frames=frames))[2].softmax(1)[:, 1:]
    masked, plain = both.chunk(2, dim=1)
    return masked, plain, F.max_pool3d(probability, (1, 2, 2))


@pytest.fixture
def each_step(network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssa2d.SSA2D]:
    """The network with a mask of its own for each step."""
    monkeypatch.setattr(network, "config", ssa2d.VARIANTS["mask_each_step"](TINY))
    yield network


@pytest.mark.parametrize("value", [0, 1])
def test_the_true_mask_is_used_at_labelled_steps_and_the_predicted_one_elsewhere(
    each_step: ssa2d.SSA2D, value: int
) -> None:
    masked, plain, predicted = gated(each_step, known_at(STEP, value))
    assert torch.equal(masked[:, :, STEP], plain[:, :, STEP] * value)
    for step in (0, 1, 3):
        assert torch.equal(masked[:, :, step], (plain * predicted)[:, :, step])
    assert ((predicted > 0) & (predicted < 1)).all()


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize(("frames", "steps"), [(8, 4), (5, 3)])
def test_one_step_of_the_mask_is_the_maximum_of_two_and_stands_for_both_as_a_known_truth_of_either_does(
    network: ssa2d.SSA2D, value: int, frames: int, steps: int
) -> None:
    masked, plain, gate = gated(network, known_at(STEP, value, steps=steps), frames=frames)
    for step in range(steps):
        pair = [other for other in (step - step % 2, step - step % 2 + 1) if other < steps]
        expected = torch.stack([gate[:, :, other] for other in pair]).amax(0)
        if STEP in pair:
            expected[:] = value
        assert torch.equal(masked[:, :, step], plain[:, :, step] * expected)


def test_of_two_labelled_steps_behind_one_of_the_mask_an_actor_in_either_opens_it(network: ssa2d.SSA2D) -> None:
    true_mask = known_at(STEP, 0)
    true_mask[:, STEP + 1] = 0
    true_mask[0, STEP + 1] = 1
    masked, plain, _ = gated(network, true_mask)
    pair = slice(STEP, STEP + 2)
    assert torch.equal(masked[0, :, pair], plain[0, :, pair]) and not masked[1, :, pair].any()


def test_without_a_true_mask_the_predicted_one_is_used_everywhere(each_step: ssa2d.SSA2D) -> None:
    masked, plain, predicted = gated(each_step, None)
    assert torch.equal(masked, plain * predicted)


def test_a_single_pixel_keeps_its_cell_open_and_an_unlabelled_one_does_not(each_step: ssa2d.SSA2D) -> None:
    true_mask = known_at(1, 0)
    true_mask[0, 1, 17, 22] = 1
    true_mask[:, 1, :8] = IGNORE  # as a crop's margin
    masked, plain, _ = gated(each_step, true_mask)
    assert plain[0, :, 1, 17 // 4, 22 // 4].any()
    expected = torch.zeros_like(masked[:, :, 1])
    expected[0, :, 17 // 4, 22 // 4] = plain[0, :, 1, 17 // 4, 22 // 4]
    assert torch.equal(masked[:, :, 1], expected)


def test_no_gradient_flows_through_the_mask_into_its_branch() -> None:
    network = build()
    network(batch())[1].square().sum().backward()
    branch = [*network.mask.parameters(), *network.trunks["mask"].parameters(), *network.atrous["mask"].parameters()]
    assert all(parameter.grad is None for parameter in branch)
    assert all(parameter.grad is not None for parameter in network.trunks["actor"].parameters())


def test_without_masking_the_action_is_classified_from_unfiltered_features_alone(network: ssa2d.SSA2D) -> None:
    plain = build(ssa2d.VARIANTS["without_ssa_masking"](TINY)).eval()
    assert plain.action.in_channels * 2 == network.action.in_channels
    with torch.no_grad():
        outputs = [plain(batch(), true_mask=known_at(STEP, value)) for value in (0, 1)]
        masked = [network(batch(), true_mask=known_at(STEP, value)) for value in (0, 1)]
    assert torch.equal(outputs[0][1], outputs[1][1]) and not torch.equal(masked[0][1], masked[1][1])


# Prediction


def test_even_frames_are_output_steps_and_odd_ones_lie_between_two(
    network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = some_logits()
    monkeypatch.setattr(network, "forward", answering(logits))
    predicted = network.predict_frames(batch(), range(8))
    assert isinstance(predicted, Predictions)
    between = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 3)]  # the last frame has no step behind it
    for clip in range(2):
        for frame, (before, after) in enumerate(between):
            actor, action = ((at_step(x, clip, before) + at_step(x, clip, after))[None] / 2 for x in logits[:2])
            expected = PairScores(A2D)(actor, action)
            for name in ("joint", "actor", "action"):
                agree = getattr(predicted, name)[8 * clip + frame] == getattr(expected, name)[0]
                assert agree.float().mean() > 0.999, "but for ties in the last bit"


def test_the_frame_that_is_predicted_is_the_one_that_is_labelled(network: ssa2d.SSA2D) -> None:
    predicted, alone = network.predict(batch()), network.predict_frames(batch(), [LABELLED])
    assert all(torch.equal(value, vars(alone)[name]) for name, value in vars(predicted).items())


# Learning


def steps_of_training(network: ssa2d.SSA2D, given: Batch, *, steps: int) -> list[float]:
    """The loss before each of the first steps of the network's own training, but on one batch."""
    training, groups = network.config.training, network.parameter_groups()
    optimiser = torch.optim.AdamW(
        [{"params": parameters, "rate": training.learning_rates[name]} for name, parameters in groups.items()],
        weight_decay=training.weight_decay,
    )
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * learning_rate_factor(training, step)
        loss = network.loss(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("variant", "inputs", "labels"),
    [
        *[(variant, "rgb", A2D) for variant in ("full", *ssa2d.VARIANTS)],
        *[(variant, "rgb+flow", A2D) for variant in ("full", "shared_trunk", "non_local")],
        *[("full", inputs, SEVERAL) for inputs in ("rgb", "rgb+flow")],
        *[(variant, "rgb", SEVERAL) for variant in ssa2d.VARIANTS],
    ],
)
def test_every_variant_gives_gradient_to_every_parameter_and_learns_a_step(
    variant: str, inputs: str, labels: Labels
) -> None:
    config = ssa2d.VARIANTS[variant](TINY) if variant != "full" else TINY
    assert (config == TINY) == (variant == "full")
    network = build(ssa2d.with_inputs(config, inputs), labels)
    before = {name: parameter.clone() for name, parameter in network.named_parameters() if name.endswith("weight")}
    first, second = steps_of_training(network, several_at_once() if labels.multi_label else batch(), steps=2)
    assert second < first
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, old in before.items() if torch.equal(old, network.get_parameter(name))] == []


def test_variants_are_those_that_runs_may_name() -> None:
    assert set(ssa2d.VARIANTS) == set(VARIANTS["ssa2d"])


def test_parameter_groups_are_the_encoders_and_the_rest() -> None:
    network = build(TWO_STREAMS)
    groups = network.parameter_groups()
    encoders = [*network.encoders.first.parameters(), *network.encoders.others.parameters()]
    assert set(groups["encoder"]) == set(encoders) and len(groups["encoder"]) == len(encoders)
    assert not set(groups["encoder"]) & set(groups["rest"])
    assert {*groups["encoder"], *groups["rest"]} == set(network.parameters())


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in double precision. A step of Adam is as long for a tiny gradient as for a large one, so in single
    precision another processor's rounding changes the fifth loss in the second decimal."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("inputs", "golden"),
    [
        ("rgb", [8.45837, 7.87751, 7.14721, 6.30189, 5.37178]),
        ("rgb+flow", [7.91573, 7.19514, 6.31563, 5.18064, 4.1635]),
    ],
)
def test_the_first_five_losses_of_the_small_network_are_those_recorded(
    float64: None, inputs: str, golden: list[float]
) -> None:
    network = build(ssa2d.with_inputs(ssa2d.small, inputs))
    assert steps_of_training(network, batch(), steps=5) == pytest.approx(golden, abs=1e-3)
