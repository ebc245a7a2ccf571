"""The video classifier of Gavrilyuk et al.: sizes, what is fixed, I3D's pooling, both streams, its loss and scores."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import video_classifier as classifier
from models.parts import i3d
from models.parts.network import load_encoder, parameter_count
from models.video_classifier import VideoBatch
from stages.core.datasets.labels import A2D, JHMDB, LabelSpace
from stages.core.training.loop import learning_rate_factor
from tests.models.parts.test_i3d import QUARTER, public
from tests.models.test_ssa2d import steps_of_training

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = replace(classifier.small, encoder=replace(i3d.SMALL, width=0.07))
"""Ends at Mixed_5b, without the pool before it."""
DEEP = replace(classifier.small, encoder=i3d.Config(width=0.07))
"""Ends at Mixed_5c, as the paper's."""
BLOCK = {"tiny": ("Mixed_5b", TINY), "deep": ("Mixed_5c", DEEP)}
INPUTS = ("rgb", "flow", "rgb+flow")


def build(
    config: classifier.Config = TINY, *, inputs: str = "rgb+flow", labels: LabelSpace = A2D
) -> classifier.VideoClassifier:
    """A network whose batch norms know the statistics of noise, as those of pretrained encoders know their clips'."""
    torch.manual_seed(0)
    network = classifier.build(classifier.with_inputs(config, inputs), labels)
    clips = batch(frames=16, height=64, width=64)
    for name, encoder in network.encoder_slots().items():
        norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)]
        for norm in norms:
            norm.momentum = 1.0
        given = clips["frames"] / 127.5 - 1 if name == "rgb3d" else clips["flow"]
        with torch.no_grad():
            encoder.train()(given.permute(0, 4, 1, 2, 3), encoder.endpoints[-1:])
        for norm in norms:
            norm.momentum = config.encoder.momentum
    return network.train()


def batch(height: int = 32, width: int = 48, *, frames: int = 8) -> VideoBatch:
    """Two clips of noise: one with a bright rectangle that moves and two pairs, one without and of one pair."""
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 80, (2, frames, height, width, 3), generator=random, dtype=torch.uint8)
    pictures[0, :, 8:24, 8:40] += 120
    flow = torch.rand(2, frames, height, width, 2, generator=random) / 2
    flow[0, :, 8:24, 8:40] -= 0.7
    pairs = torch.zeros(2, 43)
    pairs[0, [3, 17]] = pairs[1, 40] = 1
    return VideoBatch(frames=pictures, flow=flow, pairs=pairs)


def on_meta(config: classifier.Config, inputs: str) -> classifier.VideoClassifier:
    """The network without its weights: for counts and shapes."""
    with torch.device("meta"):
        return classifier.build(classifier.with_inputs(config, inputs), A2D)


def values(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and batch norms' statistics."""
    return {key: value.clone() for key, value in network.state_dict().items()}


def given_to(module: nn.Module, network: nn.Module, clips: VideoBatch) -> Tensor:
    """What ``module`` is given when ``network`` runs."""
    seen: list[Any] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(clips)
    hook.remove()
    return seen[0]


# Sizes


def test_the_paper_s_network_is_two_i3d_with_43_outputs_and_trains_the_last_block_and_layer() -> None:
    # Carreira and Zisserman's table gives 25 M for two streams and 400 classes.
    network, final = on_meta(classifier.paper, "rgb+flow"), 43 * 1024 + 43
    count = {name: sum(p.numel() for p in stream.parameters()) for name, stream in network.streams.items()}
    assert count == {"rgb": 12_287_264 + final, "flow": 12_287_264 - 64 * 7**3 + final}
    blocks = [stream.encoder.get_submodule("Mixed_5c") for stream in network.streams.values()]
    assert parameter_count(network) == sum(parameter_count(block) + final for block in blocks)


def test_the_small_network_s_size_is_known() -> None:
    network = on_meta(classifier.small, "rgb+flow")
    assert (sum(p.numel() for p in network.parameters()), parameter_count(network)) == (1_229_510, 265_526)


def test_the_paper_s_training_and_clips_are_those_of_section_5_3() -> None:
    config, training = classifier.paper, classifier.paper.training
    assert (config.frames, config.test_frames, config.crop) == (64, 32, (224, 224))
    assert (training.steps, training.optimiser, training.weight_decay) == (3_000, "adam", 0)
    assert training.learning_rates == {"encoder": 0.001, "rest": 0.001}
    assert {learning_rate_factor(training, step) for step in (0, 1, 1500, 2999)} == {1.0}, "the rate is fixed"


def test_a_clip_of_the_paper_is_pooled_to_seven_steps_as_i3d_does() -> None:
    network = on_meta(classifier.paper, "rgb")
    frames = torch.zeros(1, 64, 224, 224, 3, dtype=torch.uint8, device="meta")
    pooled = given_to(network.streams["rgb"].logits, network, VideoBatch(frames=frames))
    assert pooled.shape == (1, 1024, 7, 1, 1)


@pytest.mark.parametrize("config", [TINY, DEEP], ids=["tiny", "deep"])
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 17, 40), (7, 33, 31), (16, 64, 48)])
def test_clips_of_any_size_and_length_are_scored(
    config: classifier.Config, frames: int, height: int, width: int
) -> None:
    scores = build(config).eval().scores(batch(height, width, frames=frames))
    assert scores.shape == (2, 43) and scores.dtype == torch.float32
    assert ((scores > 0) & (scores < 1)).all()


def test_there_is_a_score_for_each_pair_of_the_data_set() -> None:
    assert build(labels=JHMDB).eval().scores(batch()).shape == (2, 21)


# Pooling


def test_logits_are_those_of_every_2_x_7_x_7_positions_averaged() -> None:
    stream = build(DEEP, inputs="rgb").eval().streams["rgb"]
    clip = torch.randn(1, 3, 24, 256, 288, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = stream.encoder(clip, ("Mixed_5c",))["Mixed_5c"]
        assert features.shape[2:] == (3, 8, 9)
        windows = [
            features[:, :, t : t + 2, y : y + 7, x : x + 7].mean((2, 3, 4))
            for t in range(2)
            for y in range(2)
            for x in range(3)
        ]
        weight, bias = stream.logits.weight[:, :, 0, 0, 0], stream.logits.bias
        expected = torch.stack([F.linear(window, weight, bias) for window in windows]).mean(0)
        torch.testing.assert_close(stream(clip), expected)


# What is fixed


@pytest.mark.parametrize("name", BLOCK)
@pytest.mark.parametrize("inputs", INPUTS)
def test_training_changes_the_last_block_and_the_final_layer_and_nothing_else(name: str, inputs: str) -> None:
    block, config = BLOCK[name]
    network = build(config, inputs=inputs)
    before = values(network)
    steps_of_training(network, batch(), steps=2)
    after = values(network)
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    learnt = tuple(
        f"streams.{stream}.{part}." for stream in inputs.split("+") for part in (f"encoder.{block}", "logits")
    )
    assert changed == {key for key in before if key.startswith(learnt)}


def test_the_gradient_stops_at_the_last_block_and_reaches_all_that_learns() -> None:
    network = build()
    network.loss(batch())["loss"].backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert all(p.grad is not None and p.grad.any() for group in network.parameter_groups().values() for p in group)


def test_in_training_the_fixed_batch_norms_keep_their_statistics_and_the_last_block_s_go_on() -> None:
    encoder = build().streams["rgb"].encoder
    training = {name: module.training for name, module in encoder.named_modules() if isinstance(module, nn.BatchNorm3d)}
    assert training == {name: name.startswith("Mixed_5b.") for name in training}
    encoder = build().eval().streams["rgb"].encoder
    assert not any(module.training for module in encoder.modules())


# Streams


def test_rgb_is_scaled_to_one_and_flow_is_taken_as_encoded() -> None:
    network, clips = build().eval(), batch()
    clips["frames"][0, 0, 0, 0] = torch.tensor([0, 255, 51], dtype=torch.uint8)
    rgb, flow = (given_to(network.streams[name].encoder, network, clips) for name in ("rgb", "flow"))
    assert rgb.shape == (2, 3, 8, 32, 48) and flow.shape == (2, 2, 8, 32, 48)
    torch.testing.assert_close(rgb[0, :, 0, 0, 0], torch.tensor([-1, 1, -0.6]))
    assert torch.equal(flow, clips["flow"].permute(0, 4, 1, 2, 3))


def test_a_run_on_one_input_needs_no_other() -> None:
    clips = batch()
    for inputs, key in (("rgb", "frames"), ("flow", "flow")):
        network = build(inputs=inputs).eval()
        alone = VideoBatch(**{key: clips[key]})  # type: ignore[literal-required,typeddict-item]
        assert torch.equal(network.scores(alone), network.scores(clips))


def test_scores_are_the_streams_probabilities_averaged() -> None:
    network, clips = build().eval(), batch()
    for stream in network.streams.values():
        nn.init.normal_(stream.logits.bias, std=3)
    with torch.no_grad():
        logits = network(clips)
    assert set(logits) == {"rgb", "flow"}
    expected = (1 / (1 + (-logits["rgb"]).exp()) + 1 / (1 + (-logits["flow"]).exp())) / 2
    torch.testing.assert_close(network.scores(clips), expected)
    late = ((logits["rgb"] + logits["flow"]) / 2).sigmoid()
    assert (late - expected).abs().max() > 0.1, "the mean of the logits is another score"


def test_scores_of_clips_do_not_depend_on_each_other() -> None:
    network, clips = build().eval(), batch()
    second = VideoBatch(frames=clips["frames"][1:], flow=clips["flow"][1:])
    torch.testing.assert_close(network.scores(clips)[1:], network.scores(second))


# The loss


def test_the_loss_is_the_binary_cross_entropy_of_every_pair_summed_over_streams() -> None:
    network, clips = build().eval(), batch()
    with torch.no_grad():
        losses, logits = network.loss(clips), network(clips)
    for name in ("rgb", "flow"):
        probability, truth = logits[name].double().sigmoid(), clips["pairs"].double()
        expected = -(truth * probability.log() + (1 - truth) * (1 - probability).log()).mean()
        assert losses[name].item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(losses) == {"loss", "rgb", "flow"}
    assert losses["loss"].item() == pytest.approx((losses["rgb"] + losses["flow"]).item())


def test_in_a_few_steps_it_tells_two_clips_and_all_their_pairs_apart() -> None:
    network, clips = build(), batch()
    losses = steps_of_training(network, clips, steps=40)
    assert losses[-1] < 0.5 * losses[0]
    scores = network.scores(clips)
    for clip, pairs in enumerate(clips["pairs"]):
        assert set(scores[clip].topk(int(pairs.sum())).indices.tolist()) == set(pairs.nonzero()[:, 0].tolist())


# Weights


def test_every_parameter_that_learns_is_in_one_group() -> None:
    network = build()
    groups = network.parameter_groups()
    grouped = [parameter for group in groups.values() for parameter in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {parameter for parameter in network.parameters() if parameter.requires_grad}
    final = {parameter for stream in network.streams.values() for parameter in stream.logits.parameters()}
    assert set(groups["rest"]) == final
    assert set(groups) == set(classifier.paper.training.learning_rates) == set(classifier.small.training.learning_rates)


def test_the_small_encoders_start_from_what_stage_pretrain_learns() -> None:
    network = on_meta(classifier.small, "rgb+flow").to_empty(device="cpu")
    slots = network.encoder_slots()
    assert list(slots) == ["rgb3d", "flow3d"]
    for name, inputs in (("rgb3d", 3), ("flow3d", 2)):
        learned = i3d.I3D(replace(i3d.SMALL, inputs=inputs)).state_dict()
        load_encoder(slots[name], learned, where=name)
        held = network.streams[name.removesuffix("3d")].encoder.state_dict()
        assert all(torch.equal(value, held[key]) for key, value in learned.items())


@pytest.mark.parametrize(("name", "inputs"), [("rgb3d", 3), ("flow3d", 2)])
def test_public_checkpoints_load_and_only_their_classifier_is_left_out(name: str, inputs: int) -> None:
    config = replace(classifier.paper, encoder=replace(classifier.paper.encoder, width=QUARTER))
    slots, weights = build(config).encoder_slots(), public(inputs)
    load_encoder(slots[name], weights, where=name)
    held = slots[name].state_dict()
    for key, value in weights.items():
        assert key.startswith("logits.") or torch.equal(held[key], value), key
