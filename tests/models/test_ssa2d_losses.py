"""SSA2D's losses against plain loops: equation 1, equations 2 to 5 over labelled steps, several actions at once."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import IGNORE, ssa2d
from models.base import Batch, MultiLabelPredictions
from models.parts.dice import generalised_dice_loss
from stages.core.datasets.labels import VIDOR
from tests.help.noise_clips import (
    LABELLED,
    SEVERAL,
    STEP,
    TINY,
    answering,
    at_step,
    batch,
    build,
    several_at_once,
    some_logits,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def dice_by_loops(probabilities: Tensor, truth: Tensor, kept: Tensor, clips: Sequence[int], epsilon: float) -> float:
    """Equation 1 as printed for each clip: numerator and denominator class by class, pixel by pixel; their mean."""
    losses = []
    for clip in sorted(set(clips)):
        above = below = 0.0
        for c in range(truth.shape[1]):
            squares = 0.0
            for n in [n for n, owner in enumerate(clips) if owner == clip]:
                pixels = kept[n].flatten().tolist()
                for p, q, counts in zip(
                    truth[n, c].flatten().tolist(), probabilities[n, c].flatten().tolist(), pixels, strict=True
                ):
                    above += p * q * counts
                    squares += (p * p + q * q) * counts
            below += squares + epsilon
        losses.append(1 - 2 * above / below)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("clips", [(0, 0, 0), (0, 0, 1), (0, 2, 2)])
@pytest.mark.parametrize("epsilon", [1e-6, 3.0])
def test_the_dice_loss_is_equation_1_of_each_clip_whatever_its_labelled_steps(
    clips: tuple[int, ...], epsilon: float
) -> None:
    random = torch.Generator().manual_seed(0)
    probabilities = torch.randn(3, 4, 4, 5, generator=random).softmax(1)
    truth = F.one_hot(torch.randint(0, 4, (3, 4, 5), generator=random), 4).permute(0, 3, 1, 2)
    kept = torch.rand(3, 4, 5, generator=random) > 0.3
    found = generalised_dice_loss(probabilities, truth, kept=kept, clips=torch.tensor(clips), epsilon=epsilon)
    assert found.item() == pytest.approx(dice_by_loops(probabilities, truth, kept, clips, epsilon), rel=1e-5)


def test_the_dice_loss_is_0_for_the_truth_and_1_for_its_opposite() -> None:
    truth = F.one_hot(torch.tensor([[[0, 1], [2, 2]]]), 3).permute(0, 3, 1, 2).float()
    kept, clips = torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    for probabilities, expected in ((truth, 0), (truth.roll(1, dims=1), 1)):
        found = generalised_dice_loss(probabilities, truth, kept=kept, clips=clips)
        assert found.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("background", [1.0, 0.25])
def test_the_loss_is_entropy_and_dice_of_three_maps_weighted_1_3_1_3_and_0_3(
    monkeypatch: pytest.MonkeyPatch, background: float
) -> None:
    """Of clips with two labelled steps and one, with pixels that nobody labelled and actors whose action is untold."""
    network, given, logits = build(replace(TINY, background_weight=background)), batch(), some_logits()
    given["labels"][0, 0] = given["labels"][0, LABELLED].roll(5)
    given["labels"][1, LABELLED, :4] = IGNORE
    given["labels"][1, LABELLED, 26:, 20:30] = 20
    monkeypatch.setattr(network, "forward", answering(logits))
    losses = network.loss(given)

    clips, steps = (0, 0, 1), (0, STEP, STEP)
    labels = torch.stack([given["labels"][clip, 2 * step] for clip, step in zip(clips, steps, strict=True)]).long()
    unlabelled = labels == IGNORE
    truths = {
        "actor": (labels // 10).masked_fill(unlabelled, IGNORE),
        "action": (labels % 10).masked_fill(unlabelled | (labels == 20), IGNORE),
        "mask": (labels > 0).long().masked_fill(unlabelled, IGNORE),
    }
    total = 0.0
    for (name, truth), scores in zip(truths.items(), logits, strict=True):
        full = torch.stack([at_step(scores, clip, step) for clip, step in zip(clips, steps, strict=True)])
        kept, classes = truth != IGNORE, full.shape[1]
        if name == "mask":  # equation 4 with its second term's sign put right
            entropy = F.binary_cross_entropy(full.softmax(1)[:, 1][kept], truth[kept].float())
        else:
            weights = torch.tensor([background, *[1.0] * (classes - 1)])
            entropy = F.cross_entropy(full, truth, weights, ignore_index=IGNORE)
        one_hot = F.one_hot(truth.masked_fill(~kept, 0), classes).permute(0, 3, 1, 2)
        expected = entropy.item() + dice_by_loops(full.softmax(1), one_hot, kept, clips, epsilon=1e-6)
        assert losses[name].item() == pytest.approx(expected, rel=1e-5)
        total += {"actor": 1.3, "action": 1.3, "mask": 0.3}[name] * expected
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)


def test_what_is_predicted_where_nobody_labelled_changes_no_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, given, logits = build(), batch(), some_logits()
    given["labels"][:, LABELLED, :, :16] = IGNORE
    elsewhere = [x.clone() for x in logits]
    for x in elsewhere:
        x[:, 1, [0, 1, 3]] += 30  # steps without labels
        x[:, 1, STEP, :, : x.shape[-1] // 6] += 30  # columns 0 to 7, and by interpolation to 11
    losses = []
    for answer in (logits, elsewhere):
        monkeypatch.setattr(network, "forward", answering(answer))
        losses.append(network.loss(given))
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def test_the_true_mask_that_the_loss_hands_over_is_actor_against_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, given = build(), batch()
    seen: list[Tensor] = []

    def forward(_: Batch, true_mask: Tensor) -> tuple[Tensor, ...]:
        seen.append(true_mask)
        return some_logits()

    monkeypatch.setattr(network, "forward", forward)
    network.loss(given)
    assert torch.equal(seen[0][:, STEP] == 1, given["labels"][:, LABELLED] > 0)
    assert (seen[0][:, [0, 1, 3]] == IGNORE).all()


# Several actions at once


def test_vidor_s_classes_are_scored_at_the_paper_s_size() -> None:
    with torch.device("meta"):
        network = ssa2d.build(ssa2d.paper, VIDOR)
    assert network.actor.out_channels == 81 and network.action.out_channels == 43


def test_several_actions_at_once_are_learnt_by_binary_cross_entropy_and_dice_without_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, given, logits = build(TINY, SEVERAL), several_at_once(), some_logits()
    monkeypatch.setattr(network, "forward", answering(logits))
    losses = network.loss(given)
    probability = torch.stack([at_step(logits[1], clip, STEP) for clip in (0, 1)])[:, 1:].sigmoid()
    truth, kept = given["actions"][:, LABELLED, 1:].float(), given["labels"][:, LABELLED] != IGNORE
    terms = []
    for n in range(2):
        for k in range(9):
            for p, y, counts in zip(
                *(x.flatten().tolist() for x in (probability[n, k], truth[n, k], kept[n])), strict=True
            ):
                terms += [-(y * math.log(p) + (1 - y) * math.log(1 - p))] if counts else []
    dice = dice_by_loops(probability, truth, kept, (0, 1), epsilon=1e-6)
    assert losses["action"].item() == pytest.approx(sum(terms) / len(terms) + dice, rel=1e-5)

    logits[1][:, 0] += 30
    given["actions"][:, :, 0] = 1
    assert torch.equal(network.loss(given)["action"], losses["action"]), "background is no action"


def test_several_actions_are_predicted_where_an_actor_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, (actor, action, mask) = build(TINY, SEVERAL), some_logits()
    monkeypatch.setattr(network, "forward", answering((actor, action, mask)))
    predicted = network.predict(several_at_once())
    assert isinstance(predicted, MultiLabelPredictions)
    who, scores = (torch.stack([at_step(x, clip, STEP) for clip in (0, 1)]) for x in (actor, action))
    assert torch.equal(predicted.actor, who.argmax(1).byte())
    probable = scores.sigmoid() > 0.5
    assert torch.equal(predicted.actions[:, 1:], probable[:, 1:] & (who.argmax(1) > 0)[:, None])
    assert predicted.actions[:, 1:].sum(1).amax() > 1
