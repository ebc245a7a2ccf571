"""Pretraining: generated clips that depend on their number alone, and classification under masks."""

import numpy as np
import pytest
import torch
from torch import nn

from models import deeplab, ssa2d
from models.parts.classifier import AUXILIARY, Classifier, Classifiers
from models.parts.network import load_encoder
from stages.core.batches.clip_batches import STILLS, GeneratedClips, batches
from stages.core.batches.sampler import Sampler
from stages.core.batches.window_batches import ENCODINGS
from stages.core.datasets.labels import A2D, VALID_IDS
from stages.core.optical_flow import dis

SIZES = {"seed": 7, "height": 48, "side": 32, "side3d": 24, "frames": 6}


def clips(**changes: int) -> GeneratedClips:
    return GeneratedClips(**{**SIZES, "count": 5, **changes})


def test_a_draw_depends_on_its_number_and_not_on_what_was_drawn_before() -> None:
    used = clips()
    _ = used[0, 3], used[1, 2]
    first, again = used[2, 3], clips()[2, 3]
    assert all(torch.equal(first[name], again[name]) for name in first)  # type: ignore[literal-required]


def test_a_clip_is_seen_differently_in_every_draw() -> None:
    used = clips()
    first, second = used[0, 3], used[5, 3]
    assert not torch.equal(first["frames"], second["frames"])


def test_the_shapes_are_those_that_the_encoders_get() -> None:
    drawn = clips()[0, 1]
    shapes = {name: tuple(value.shape) for name, value in drawn.items()}  # type: ignore[attr-defined]
    assert shapes == {
        "stills": (STILLS, 32, 32, 3), "flow": (STILLS, 32, 32, 3), "still_labels": (STILLS, 32, 32),
        "frames": (6, 24, 24, 3), "motion": (6, 24, 24, 2), "labels": (6, 24, 24),
    }  # fmt: skip


def test_the_first_figures_go_round_the_43_pairs() -> None:
    """The n-th clip holds the n-th pair: where it is seen, it is among the labels."""
    some = clips(count=43, height=60, side=60)
    missing = [number for number in range(0, 43, 6) if VALID_IDS[1 + number] not in some[0, number]["labels"].unique()]
    assert len(missing) <= 1  # one may lie outside the crop


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 2}, "pretrain.frames: 2 are too few"),
        ({"side": 49}, "pretrain.side: crops of 49 pixels do not fit"),
        ({"side3d": 11}, "pretrain.side3d: no flow of 11 pixels"),
    ],
)
def test_sizes_that_cannot_be_are_a_clear_error(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clips(**changes)


def test_a_training_that_goes_on_sees_the_batches_of_one_that_never_stopped() -> None:
    whole = list(batches(clips(), 0, seed=1, steps=4, batch=2, loaders=0))
    rest = list(batches(clips(), 2, seed=1, steps=4, batch=2, loaders=0))
    for expected, found in zip(whole[2:], rest, strict=True):
        assert torch.equal(expected["frames"], found["frames"])


def test_every_clip_is_drawn_once_an_epoch_and_draws_are_numbered() -> None:
    drawn = [pair for batch in Sampler(6, batch=4, seed=3, start=0, steps=3) for pair in batch]
    assert [number for number, _ in drawn] == list(range(12))
    assert sorted(place for _, place in drawn[:6]) == sorted(place for _, place in drawn[6:]) == list(range(6))
    assert [place for _, place in drawn[:6]] != [place for _, place in drawn[6:]]


def test_features_are_averaged_under_each_figure_s_mask() -> None:
    """Figures whose features are those of their own label are all told right; background is left out."""
    classifier = Classifier(nn.Identity(), 18, actors=8, actions=10)
    with torch.no_grad():
        classifier.head.weight.copy_(40 * torch.eye(18))
        classifier.head.bias.zero_()
    labels = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    labels[0, :, :16], labels[0, :, 16:, 16:], labels[1, :, 8:] = 17, 66, 12
    features = torch.randn(2, 18, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    coarse = labels[:, :, 2::4, 2::4]
    for label in (17, 66, 12):
        clip, _, row, column = (coarse == label).nonzero(as_tuple=True)
        code = torch.zeros(18)
        code[label // 10], code[8 + label % 10] = 1, 1
        features[clip, :, 0, row, column] = code
    loss, actor, action = classifier.losses(features, labels)
    assert actor == action == 1 and loss < 1e-3


def test_the_small_encoders_learn_from_one_batch_and_share_nothing() -> None:
    torch.manual_seed(0)
    network = Classifiers(deeplab.small.encoder, ssa2d.small.encoder, actors=len(A2D.actors), actions=len(A2D.actions))
    given = next(batches(clips(height=60, side=60, side3d=48), 0, seed=1, steps=1, batch=4, loaders=0))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        found = network.loss(given)
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        losses.append(found["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert set(network.encoders()) == {"rgb2d", "flow2d", "rgb3d", "flow3d"}
    classifiers = (*network.encoders(), "auxiliary", "flow_auxiliary")
    assert set(found) == {"loss", *(f"{name}_{kind}" for name in classifiers for kind in ("actor", "action"))}
    assert all(np.isfinite(losses))


def test_the_3d_encoders_meet_flow_as_the_method_will_feed_it() -> None:
    """In pixels of the small crop, frame t to t + 1, the last once more, encoded as SSA2D's loader encodes it."""
    drawn = clips(height=60, side=60, side3d=48)[0, 1]
    frames = drawn["frames"].numpy()
    encode = ENCODINGS[ssa2d.small.flow_encoding]
    for t in range(5):
        expected = encode(dis.estimate(frames[t], frames[t + 1]))
        assert np.array_equal(drawn["motion"][t].numpy(), expected)
    assert torch.equal(drawn["motion"][5], drawn["motion"][4]) and drawn["motion"].any()


def test_the_pretrained_3d_encoders_fit_the_two_streams_of_the_method() -> None:
    pretrained = Classifiers(deeplab.small.encoder, ssa2d.small.encoder, actors=8, actions=10).encoders()
    for inputs in ("rgb", "flow", "rgb+flow"):
        network = ssa2d.build(ssa2d.with_inputs(ssa2d.small, inputs), A2D)
        for name, slot in network.encoder_slots().items():
            load_encoder(slot, pretrained[name].state_dict(), where=name)  # type: ignore[arg-type]
            key = "Conv3d_1a_7x7.conv3d.weight"
            assert torch.equal(slot.state_dict()[key], pretrained[name].state_dict()[key])


def test_the_auxiliary_classifier_trains_the_early_blocks_only() -> None:
    torch.manual_seed(0)
    network = Classifiers(deeplab.small.encoder, ssa2d.small.encoder, actors=8, actions=10)
    given = next(batches(clips(height=60, side=60, side3d=48), 0, seed=1, steps=1, batch=2, loaders=0))
    clip = given["frames"].permute(0, 4, 1, 2, 3).float()
    features = network.rgb3d.encoder(clip, (AUXILIARY,))[AUXILIARY]
    network.auxiliary.losses(features, given["labels"])[0].backward()
    trained = {name.split(".")[0] for name, value in network.rgb3d.encoder.named_parameters() if value.grad is not None}
    assert trained == {"Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c"}
