"""DeepLab: the two-stream baseline of Dang et al., its sizes, its loss over labelled pixels, its pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import IGNORE, deeplab
from models.base import Batch, PairScores, configuration, split_labels
from models.methods import METHODS, ON_SENTENCES, ON_VIDEOS, VARIANTS, method
from models.parts import resnet
from models.parts.network import parameter_count
from stages.core.datasets.labels import A2D

TINY = replace(deeplab.small, encoder=resnet.Config(layers=(1, 1, 1, 1), width=4, bottleneck=False))


def build(config: deeplab.Config = TINY, *, seed: int = 0) -> deeplab.DeepLab:
    torch.manual_seed(seed)
    return deeplab.build(config, A2D)


def batch(height: int = 40, width: int = 56, *, count: int = 2, seed: int = 0) -> Batch:
    """Noise with a rectangle of each clip's own label on background."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, 1, height, width, dtype=torch.uint8)
    for clip, label in zip(range(count), (17, 66, 36, 41), strict=False):
        labels[clip, 0, 8:30, 10:40] = label
    frames = torch.randint(0, 60, (count, 1, height, width, 3), generator=random, dtype=torch.uint8)
    frames += labels[..., None] * 2
    flow = torch.randint(0, 255, (count, 1, height, width, 3), generator=random, dtype=torch.uint8)
    return Batch(frames=frames, flow=flow, labels=labels)


def with_labels(original: Batch, labels: Tensor) -> Batch:
    return Batch(frames=original["frames"], flow=original["flow"], labels=labels)


def test_the_paper_s_sizes_are_two_resnet_101_and_two_heads_of_four_convolutions() -> None:
    with torch.device("meta"):
        both = deeplab.build(deeplab.paper, A2D)
        rgb = deeplab.build(deeplab.with_inputs(deeplab.paper, "rgb"), A2D)
    heads = {streams: 4 * (9 * 2048 * streams * (8 + 10) + (8 + 10)) for streams in (1, 2)}
    assert parameter_count(both) == 87_654_600 == 2 * 42_500_160 + heads[2]
    assert parameter_count(rgb) == 43_827_336 == 42_500_160 + heads[1]


def test_the_paper_s_counts_are_those_that_ssa2d_s_paper_gives_for_methods_on_resnet_101() -> None:
    """44 M for RGB, 88 M for RGB + flow."""
    with torch.device("meta"):
        counts = [
            parameter_count(deeplab.build(deeplab.with_inputs(deeplab.paper, i), A2D)) for i in ("rgb", "rgb+flow")
        ]
    assert [round(count / 1e6) for count in counts] == [44, 88]


def test_the_small_network_s_size_is_known() -> None:
    assert parameter_count(build(deeplab.small)) == 1_635_768


def test_the_paper_s_training_is_that_of_section_3_4() -> None:
    training = deeplab.paper.training
    assert (training.steps, training.batch, training.optimiser) == (20_000, 10, "sgd")
    assert training.learning_rates == {"front": 2.5e-4, "back": 5e-3}
    assert deeplab.paper.rates == (6, 12, 18, 24) and deeplab.paper.encoder.stride == 8


@pytest.mark.parametrize("inputs", ["rgb", "flow", "rgb+flow"])
@pytest.mark.parametrize("size", [(40, 56), (101, 77)], ids=["even", "odd"])
def test_predictions_have_the_size_of_the_frames(inputs: str, size: tuple[int, int]) -> None:
    network = build(deeplab.with_inputs(TINY, inputs)).eval()
    given = batch(*size)
    actor, action = network(given)
    eighth = tuple(-(-length // 8) for length in size)
    assert actor.shape == (2, 8, *eighth) and action.shape == (2, 10, *eighth)
    predicted = network.predict(given)
    for found in (predicted.joint, predicted.actor, predicted.action):
        assert found.shape == (2, *size) and found.dtype == torch.uint8


def test_each_stream_sees_its_own_input() -> None:
    given = batch()
    other_flow = Batch(frames=given["frames"], flow=255 - given["flow"], labels=given["labels"])
    rgb, both = (build(deeplab.with_inputs(TINY, inputs)).eval() for inputs in ("rgb", "rgb+flow"))
    assert torch.equal(rgb(given)[0], rgb(other_flow)[0])
    assert not torch.equal(both(given)[0], both(other_flow)[0])
    assert torch.equal(rgb(given)[0], rgb(Batch(frames=given["frames"]))[0]), "a run without flow needs none"


# Early and late fusion


def late(config: deeplab.Config = TINY) -> deeplab.Config:
    return deeplab.VARIANTS["late_fusion"](config)


def test_variants_are_those_that_runs_may_name() -> None:
    assert set(deeplab.VARIANTS) == set(VARIANTS["deeplab"])
    assert late() == replace(TINY, fusion="late") and TINY.fusion == "early" == deeplab.paper.fusion


def test_features_are_the_streams_side_by_side_and_what_the_heads_see() -> None:
    network, given = build().eval(), batch(41, 55)
    features = network.features(given)
    assert features.shape == (2, 2 * TINY.encoder.channels, 6, 7)
    rgb, flow = features.chunk(2, dim=1)
    for stream, alone in (("rgb", rgb), ("flow", flow)):
        source = given["frames"] if stream == "rgb" else given["flow"]
        assert torch.equal(network.encoders[stream](resnet.picture(source[:, 0])), alone)
    assert torch.equal(network(given)[0], network.actor(features))


def test_late_fusion_averages_the_probabilities_of_heads_that_see_one_stream_each() -> None:
    network, given = build(late()).eval(), batch()
    streams = network.features(given).chunk(2, dim=1)
    for head, fused, classes in zip((network.actor, network.action), network(given), (8, 10), strict=True):
        assert fused.shape == (2, classes, 5, 7)
        apart = []
        for number, features in enumerate(streams):
            own = slice(number * classes, (number + 1) * classes)
            logits = sum(
                F.conv2d(features, b.weight[own], b.bias[own], padding=b.padding, dilation=b.dilation)
                for b in head.branches
            )
            apart.append(logits.softmax(1))
        torch.testing.assert_close(fused.softmax(1), (apart[0] + apart[1]) / 2)


def test_summing_the_streams_logits_would_be_early_fusion_again() -> None:
    network = build().eval()
    features = network.features(batch())
    rgb = torch.cat([features[:, :32], torch.zeros_like(features[:, 32:])], dim=1)
    bias = torch.stack([branch.bias for branch in network.actor.branches]).sum(0).view(-1, 1, 1)
    summed = network.actor(rgb) + network.actor(features - rgb) - bias
    torch.testing.assert_close(summed, network.actor(features))


def test_with_one_stream_late_fusion_is_early_fusion() -> None:
    config = deeplab.with_inputs(TINY, "rgb")
    early, fused_late, given = build(config).eval(), build(late(config)).eval(), batch()
    assert torch.equal(early(given)[0], fused_late(given)[0])


def test_late_fusion_has_the_weights_of_early_fusion_and_a_bias_a_stream() -> None:
    with torch.device("meta"):
        counts = [parameter_count(deeplab.build(config, A2D)) for config in (deeplab.paper, late(deeplab.paper))]
    assert counts[1] - counts[0] == 4 * (8 + 10)


def test_an_unknown_fusion_is_an_error_that_names_the_two() -> None:
    with pytest.raises(ValueError, match="fusion `middle` is neither `early` nor `late`"):
        replace(TINY, fusion="middle")


def test_every_parameter_is_in_one_group_and_every_encoder_has_a_slot() -> None:
    network = build()
    grouped = [parameter for group in network.parameter_groups().values() for parameter in group]
    assert len(grouped) == len(set(grouped)) == len(list(network.parameters()))
    assert set(network.parameter_groups()) == set(TINY.training.learning_rates)
    assert {name: type(slot) for name, slot in network.encoder_slots().items()} == {
        "rgb2d": resnet.ResNet, "flow2d": resnet.ResNet,
    }  # fmt: skip


def test_the_picture_is_normalised_as_public_weights_expect() -> None:
    image = torch.tensor([[[[124, 116, 104], [255, 0, 0]]]], dtype=torch.uint8)
    x = resnet.picture(image)
    assert x.shape == (1, 3, 1, 2) and x[0, :, 0, 0].abs().max() < 0.01
    assert x[0, 0, 0, 1].item() == pytest.approx((1 - 0.485) / 0.229)


# The loss


def test_the_loss_is_the_cross_entropy_of_actor_and_action_at_full_resolution() -> None:
    network, given = build().eval(), batch()
    losses = network.loss(given)
    expected = {}
    for name, logits, truth in zip(
        ("actor", "action"), network(given), (given["labels"] // 10, given["labels"] % 10), strict=True
    ):
        full = F.interpolate(logits, size=(40, 56), mode="bilinear", align_corners=False).log_softmax(1)
        right = full.gather(1, truth.long())
        expected[name] = -right.mean()
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    assert losses["loss"].item() == pytest.approx((expected["actor"] + expected["action"]).item(), rel=1e-5)


def test_what_is_predicted_at_unlabelled_pixels_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, given = build().eval(), batch()
    labels = given["labels"].clone()
    labels[:, :, :, :24] = IGNORE
    actor, action = network(given)
    losses = []
    for shift in (0.0, 50.0):
        moved = [x.clone() for x in (actor, action)]
        for x in moved:
            x[:, 1, :, :2] += shift  # columns 0 to 15 of the picture, and by interpolation to 19
        monkeypatch.setattr(network, "forward", lambda _, moved=moved: tuple(moved))
        losses.append(network.loss(with_labels(given, labels))["loss"].item())
    assert losses[0] == losses[1]


def test_what_is_predicted_at_labelled_pixels_changes_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    network, given = build().eval(), batch()
    actor, action = network(given)
    before = network.loss(given)["loss"].item()
    monkeypatch.setattr(network, "forward", lambda _: (actor + torch.eye(8)[1][None, :, None, None], action))
    assert network.loss(given)["loss"].item() != before


def test_a_few_steps_on_one_batch_lower_the_loss_at_small_size() -> None:
    network = build(deeplab.with_inputs(deeplab.small, "rgb"))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    given = batch(64, 80)
    losses = []
    for _ in range(8):
        loss = network.loss(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# Pairs


def test_the_best_pair_is_never_one_that_can_t_occur() -> None:
    random = torch.Generator().manual_seed(0)
    scores = PairScores(A2D)
    predicted = scores(
        torch.randn(4, 8, 50, 50, generator=random) * 5, torch.randn(4, 10, 50, 50, generator=random) * 5
    )
    found = set(np.unique(predicted.joint))
    assert found == set(A2D.valid_ids), "with 10,000 random pixels each valid pair is the best somewhere"


def test_a_pair_s_score_is_the_product_of_its_parts() -> None:
    actor, action = torch.full((1, 8, 1, 1), -9.0), torch.full((1, 10, 1, 1), -9.0)
    actor[0, 4], actor[0, 1] = 2.0, 1.9  # bird a little before adult
    action[0, 7], action[0, 8] = 3.0, 0.0  # running, which a bird does not do, far before walking
    predicted = PairScores(A2D)(actor, action)
    assert predicted.joint.item() == 17  # adult-running before bird-walking: -0.1 against -3
    assert (predicted.actor.item(), predicted.action.item()) == (4, 7), "the heads' own maps know nothing of pairs"


def test_background_is_a_pair_of_its_own() -> None:
    actor, action = torch.zeros(1, 8, 1, 1), torch.zeros(1, 10, 1, 1)
    actor[0, 0] = action[0, 0] = 5
    assert PairScores(A2D)(actor, action).joint.item() == 0


def test_labels_split_into_actor_and_action_and_unlabelled_stays_so() -> None:
    actor, action = split_labels(torch.tensor([0, 17, 79, IGNORE], dtype=torch.uint8), stride=10)
    assert actor.tolist() == [0, 1, 7, IGNORE] and action.tolist() == [0, 7, 9, IGNORE]
    assert actor.dtype == action.dtype == torch.int64


# Methods


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_the_common_interface(name: str) -> None:
    module = method(name)
    assert type(module.paper) is type(module.small) is module.Config
    network = module.build(module.with_inputs(module.small, "rgb"), A2D)
    answer = "response" if name in ON_SENTENCES else "scores" if name in ON_VIDEOS else "predict"
    for part in ("loss", answer, "parameter_groups", "encoder_slots"):
        assert callable(getattr(network, part))
    assert set(network.parameter_groups()) == set(module.paper.training.learning_rates)


def test_an_unknown_method_or_configuration_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(ValueError, match=f"no method `unet`; there are {', '.join(METHODS)}"):
        method("unet")
    with pytest.raises(ValueError, match="neither `paper` nor `small`"):
        configuration(deeplab, "with_inputs", inputs="rgb", variant="full")
