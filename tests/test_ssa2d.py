"""SSA2D: the published sizes and shapes, the masking of section 3.4, and the losses of equations 1 to 5."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, ssa2d
from models.base import Batch, Window, parameter_count
from models.ssa2d import generalised_dice_loss
from stages.core.labels import A2D

TINY = replace(
    ssa2d.small, encoder=replace(ssa2d.paper.encoder, width=0.07), decoder=(8, 8, 8), pyramid=4, atrous=(2, 3, 3, 2),
    window=Window(before=4, after=3),
)  # fmt: skip
LABELLED = TINY.window.before
"""Position of the labelled frame in a window."""


@pytest.fixture(scope="module")
def network() -> ssa2d.SSA2D:
    """A very small network in evaluation; its batch statistics come from one batch."""
    torch.manual_seed(0)
    network = ssa2d.build(TINY, A2D).train()
    with torch.no_grad():
        for _ in range(40):
            network(batch())
    return network.eval()


def batch(height: int = 32, width: int = 48, *, frames: int = 8, count: int = 2, seed: int = 0) -> Batch:
    """Noise with a bright rectangle, labelled in one frame of each clip."""
    random = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 80, (count, frames, height, width, 3), generator=random, dtype=torch.uint8)
    labels = torch.full((count, frames, height, width), IGNORE, dtype=torch.uint8)
    labels[:, LABELLED] = 0
    for clip, label in zip(range(count), (17, 66), strict=True):
        pictures[clip, :, 8:24, 8:40] += 80 + label
        labels[clip, LABELLED, 8:24, 8:40] = label
    return Batch(frames=pictures, labels=labels)


def masked_and_plain(network: ssa2d.SSA2D, true_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """What SSA-masking gives the action's classifier, half masked and half plain, and the probability of the mask."""
    seen: list[Tensor] = []
    hook = network.action.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        _, _, mask = network(batch(), true_mask=true_mask)
    hook.remove()
    masked, plain = seen[0].chunk(2, dim=1)
    return masked, plain, mask.softmax(1)[:, 1:]


# Sizes and shapes


def test_the_paper_s_size_is_within_6_percent_of_the_published_35_million() -> None:
    with torch.device("meta"):
        count = parameter_count(ssa2d.build(ssa2d.paper, A2D))
    assert count == 36_889_076
    assert abs(count / 35e6 - 1) < 0.06


def test_the_small_network_s_size_is_known() -> None:
    with torch.device("meta"):
        assert parameter_count(ssa2d.build(ssa2d.small, A2D)) == 2_053_428


def test_the_paper_s_shapes_for_16_frames_of_224() -> None:
    with torch.device("meta"):
        network = ssa2d.build(ssa2d.paper, A2D).eval()
        clip = torch.zeros(1, 16, 224, 224, 3, dtype=torch.uint8)
        encoded = network.encoder(clip.permute(0, 4, 1, 2, 3).float(), (*ssa2d.SKIPS, ssa2d.DEEPEST))
        actor, action, mask = network({"frames": clip})
    assert encoded[ssa2d.DEEPEST].shape == (1, 832, 4, 14, 14)
    assert actor.shape == (1, 8, 8, 56, 56) and action.shape == (1, 10, 8, 56, 56)
    assert mask.shape == (1, 2, 8, 112, 112)


def test_the_paper_s_training_is_that_of_section_3_6() -> None:
    training = ssa2d.paper.training
    rates = {"encoder": 1e-4, "rest": 1e-4}
    assert (training.batch, training.optimiser, training.learning_rates) == (14, "adam", rates)
    assert training.schedule == f"step:{round(5 * 9561 / 14)}:0.1" and training.steps == pytest.approx(
        11 * 9561 / 14, abs=1
    )
    assert ssa2d.paper.loss_weights == {"actor": 1.3, "action": 1.3, "mask": 0.3}
    assert ssa2d.paper.background_weight == 1
    assert ssa2d.paper.window.length == 16 and ssa2d.paper.crop == (224, 224)


@pytest.mark.parametrize(("height", "width", "frames"), [(101, 77, 8), (33, 64, 8), (48, 64, 5), (32, 48, 16)])
def test_odd_sizes_are_predicted_and_learnt_from_at_their_own_size(
    network: ssa2d.SSA2D, height: int, width: int, frames: int
) -> None:
    given = batch(height, width, frames=frames)
    predicted = network.predict(given)
    for found in (predicted.joint, predicted.actor, predicted.action):
        assert found.shape == (2, height, width) and found.dtype == torch.uint8
    assert network.loss(given)["loss"].isfinite()


def test_predicted_pairs_can_occur(network: ssa2d.SSA2D) -> None:
    assert set(network.predict(batch()).joint.unique().tolist()) <= set(A2D.valid_ids)


def test_the_three_decoders_share_no_weight() -> None:
    network = ssa2d.build(TINY, A2D)
    decoders = [network.decode_actor, network.decode_action, network.decode_mask]
    sizes = {parameter_count(decoder) for decoder in decoders}
    own = [parameter for decoder in decoders for parameter in decoder.parameters()]
    assert len(sizes) == 1 and len(own) == len(set(own))


def test_the_actor_s_features_are_the_action_s_prior(network: ssa2d.SSA2D) -> None:
    """AP-infusion: without the actor's features the action changes; without the action's the actor does not."""

    def with_zero(decoder: nn.Module) -> tuple[Tensor, Tensor]:
        hook = decoder.register_forward_hook(lambda *_: torch.zeros_like(_[-1]))
        with torch.no_grad():
            actor, action, _ = network(batch())
        hook.remove()
        return actor, action

    with torch.no_grad():
        actor, action, _ = network(batch())
    assert not torch.equal(with_zero(network.decode_actor)[1], action)
    assert torch.equal(with_zero(network.decode_action)[0], actor)


def test_only_rgb_is_built_and_the_error_says_so() -> None:
    with pytest.raises(ValueError, match="only `rgb` is built"):
        ssa2d.with_inputs(ssa2d.small, "rgb+flow")


# SSA-masking


def known_at(step: int, value: int) -> Tensor:
    """(B, S, H, W): the true mask of one step, nothing known of the others."""
    mask = torch.full((2, 4, 32, 48), IGNORE)
    mask[:, step] = value
    return mask


@pytest.mark.parametrize("value", [0, 1])
def test_the_true_mask_is_used_at_labelled_steps_and_the_predicted_one_elsewhere(
    network: ssa2d.SSA2D, value: int
) -> None:
    masked, plain, probability = masked_and_plain(network, known_at(2, value))
    gate = F.adaptive_max_pool3d(probability, plain.shape[2:])
    assert torch.equal(masked[:, :, 2], plain[:, :, 2] * value)
    for step in (0, 1, 3):
        assert torch.equal(masked[:, :, step], (plain * gate)[:, :, step])
    assert ((gate > 0) & (gate < 1)).all()


def test_without_a_true_mask_the_predicted_one_is_used_everywhere(network: ssa2d.SSA2D) -> None:
    masked, plain, probability = masked_and_plain(network, None)
    assert torch.equal(masked, plain * F.adaptive_max_pool3d(probability, plain.shape[2:]))


def test_a_single_labelled_pixel_keeps_its_cell_open(network: ssa2d.SSA2D) -> None:
    true_mask = known_at(1, 0)
    true_mask[0, 1, 17, 22] = 1
    masked, plain, _ = masked_and_plain(network, true_mask)
    still_open = (masked[0, :, 1] == plain[0, :, 1]).all(0)
    assert still_open[17 // 4, 22 // 4]
    assert not masked[1, :, 1].any()


def test_no_gradient_flows_through_the_predicted_gate() -> None:
    torch.manual_seed(0)
    network = ssa2d.build(TINY, A2D)
    _, action, _ = network(batch())
    action.square().sum().backward()
    gated_by = [*network.mask.parameters(), *network.decode_mask.parameters()]
    assert all(parameter.grad is None for parameter in gated_by)
    assert all(parameter.grad is not None for parameter in network.decode_actor.parameters())


def test_the_loss_trains_every_parameter() -> None:
    torch.manual_seed(0)
    network = ssa2d.build(TINY, A2D)
    network.loss(batch())["loss"].backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    groups = network.parameter_groups()
    assert set(groups["encoder"]) == set(network.encoder.parameters())
    assert not set(groups["encoder"]) & set(groups["rest"])
    assert {*groups["encoder"], *groups["rest"]} == set(network.parameters())


# Losses


def dice_by_loops(probabilities: Tensor, truth: Tensor, epsilon: float) -> float:
    """Equation 1 as printed: numerator and denominator class by class, pixel by pixel."""
    above = below = 0.0
    for c in range(probabilities.shape[1]):
        squares = 0.0
        for n in range(truth.shape[0]):
            for y in range(truth.shape[1]):
                for x in range(truth.shape[2]):
                    if truth[n, y, x] == IGNORE:
                        continue
                    p, q = float(truth[n, y, x] == c), float(probabilities[n, c, y, x])
                    above += p * q
                    squares += p * p + q * q
        below += squares + epsilon
    return 1 - 2 * above / below


@pytest.mark.parametrize("epsilon", [1e-6, 3.0])
def test_the_dice_loss_is_equation_1(epsilon: float) -> None:
    random = torch.Generator().manual_seed(0)
    probabilities = torch.randn(2, 3, 4, 5, generator=random).softmax(1)
    truth = torch.randint(0, 3, (2, 4, 5), generator=random)
    truth[0, :2] = IGNORE
    found = generalised_dice_loss(probabilities, truth, epsilon=epsilon)
    assert found.item() == pytest.approx(dice_by_loops(probabilities, truth, epsilon), rel=1e-5)


def test_the_dice_loss_is_0_for_the_truth_and_1_for_its_opposite() -> None:
    truth = torch.tensor([[[0, 1], [2, IGNORE]]])
    right = F.one_hot(truth.clamp(max=2), 3).permute(0, 3, 1, 2).float()
    assert generalised_dice_loss(right, truth).item() == pytest.approx(0, abs=1e-5)
    assert generalised_dice_loss(right.roll(1, dims=1), truth).item() == pytest.approx(1, abs=1e-5)


def answering(network: ssa2d.SSA2D, logits: tuple[Tensor, ...]) -> Callable[..., Any]:
    return lambda *_, **__: tuple(x.clone() for x in logits)


def logits_of(given: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits of the shapes that the network gives for 32 x 48."""
    random = torch.Generator().manual_seed(4)
    steps = given["frames"].shape[1] // 2
    actor, action, mask = (
        torch.randn(2, k, steps, 32 // s, 48 // s, generator=random) for k, s in ((8, 4), (10, 4), (2, 2))
    )
    return actor, action, mask


@pytest.mark.parametrize("background", [1.0, 0.25])
def test_the_loss_is_cross_entropy_and_dice_of_three_maps_weighted_1_3_1_3_and_0_3(
    network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch, background: float
) -> None:
    given = batch()
    monkeypatch.setattr(network, "config", replace(TINY, background_weight=background))
    logits = logits_of(given)
    monkeypatch.setattr(network, "forward", answering(network, logits))
    losses = network.loss(given)
    labels = given["labels"][:, LABELLED].long()
    truths = {"actor": labels // 10, "action": labels % 10, "mask": (labels > 0).long()}
    total = 0.0
    for (name, truth), scores in zip(truths.items(), logits, strict=True):
        full = F.interpolate(scores[:, :, LABELLED // 2], size=(32, 48), mode="bilinear", align_corners=False)
        weights = torch.tensor([1.0 if name == "mask" else background, *[1.0] * (full.shape[1] - 1)])
        expected = F.cross_entropy(full, truth, weights) + generalised_dice_loss(full.softmax(1), truth)
        assert losses[name].item() == pytest.approx(expected.item(), rel=1e-5)
        total += {"actor": 1.3, "action": 1.3, "mask": 0.3}[name] * expected.item()
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)


def test_what_is_predicted_where_nobody_labelled_changes_no_loss(
    network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batch()
    given["labels"][:, LABELLED, :, :16] = IGNORE
    logits = logits_of(given)
    elsewhere = [x.clone() for x in logits]
    for x in elsewhere:
        x[:, 1, [0, 1, 3]] += 30  # steps without labels
        x[:, 1, LABELLED // 2, :, : x.shape[-1] // 6] += 30  # columns 0 to 7, and by interpolation to 11
    losses = []
    for answer in (logits, tuple(elsewhere)):
        monkeypatch.setattr(network, "forward", answering(network, answer))
        losses.append(network.loss(given))
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def test_the_frame_that_is_labelled_is_the_one_that_is_predicted(
    network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batch()
    actor, action, mask = (torch.zeros_like(x) for x in logits_of(given))
    actor[:, 0], action[:, 0] = 5, 5
    actor[:, 1, LABELLED // 2], action[:, 7, LABELLED // 2] = 20, 20
    monkeypatch.setattr(network, "forward", answering(network, (actor, action, mask)))
    assert (network.predict(given).joint == 17).all()
    given["labels"][:, LABELLED] = 17
    assert network.loss(given)["actor"] < 1e-3


def test_the_true_mask_that_the_loss_hands_over_is_actor_against_background(
    network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, seen = batch(), []

    def forward(_: Batch, true_mask: Tensor) -> tuple[Tensor, ...]:
        seen.append(true_mask)
        return logits_of(given)

    monkeypatch.setattr(network, "forward", forward)
    network.loss(given)
    assert torch.equal(seen[0][:, LABELLED // 2] == 1, given["labels"][:, LABELLED] > 0)
    assert (seen[0][:, [0, 1, 3]] == IGNORE).all()


def test_a_few_steps_on_one_batch_lower_the_loss_at_small_size() -> None:
    torch.manual_seed(0)
    network = ssa2d.build(replace(ssa2d.small, window=TINY.window), A2D)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        loss = network.loss(batch())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
