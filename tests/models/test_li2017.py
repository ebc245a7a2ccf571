"""Li et al. 2017: its dynamic filter position by position, its sizes and its training; the rest is in test_vgg.py."""

from dataclasses import replace

import pytest
import torch

from models import li2017
from models.parts import resnet, text, vgg
from models.parts.network import parameter_count
from stages.core.datasets.labels import A2D
from stages.core.training.loop import learning_rate_factor
from tests.models.test_hu2016 import lstm_count
from tests.models.test_sentence import batch
from tests.models.test_ssa2d import float64, steps_of_training  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")


def on_meta(config: li2017.Config) -> vgg.Segmenter:
    """The network without its weights: for counts."""
    with torch.device("meta"):
        return li2017.build(config, A2D)


def test_the_paper_s_network_has_the_size_that_follows_from_its_parts() -> None:
    network = on_meta(li2017.paper)
    assert parameter_count(network.text) == lstm_count(1000)
    assert parameter_count(network.head) == (1000 + 1) * (1000 + 8)
    assert parameter_count(network.upsample) == 64 * 64
    whole = sum(parameter.numel() for parameter in network.parameters())
    convolutions = 14_714_688  # of VGG16, which are fixed
    assert whole == 138_357_544 + lstm_count(1000) + 1_009_008 + 4096 == 144_578_648
    assert parameter_count(network) == 129_863_960 == whole - convolutions


def test_the_small_network_s_size_is_known() -> None:
    network = on_meta(li2017.small)
    head = 192 * 128 + 128 + 129 * (128 + 8)
    assert parameter_count(network) == 956_096 == 693_432 + lstm_count(128) + head + 16 * 16


def test_the_paper_s_training_is_that_of_the_released_code_at_one_learning_rate() -> None:
    training = li2017.paper.training
    assert (training.steps, training.batch, training.optimiser, training.weight_decay) == (25_000, 10, "adam", 5e-4)
    assert training.learning_rates == {"encoder": 1e-4, "rest": 1e-4}
    assert {learning_rate_factor(training, step) for step in (0, 12_000, 24_999)} == {1.0}
    assert li2017.paper.background_weight == 1
    assert li2017.paper.text_encoder == text.LSTM and li2017.paper.crop == (512, 512)


@pytest.mark.parametrize("projected", [False, True])
def test_a_position_s_response_is_its_features_and_where_it_is_under_the_sentence_s_filter(projected: bool) -> None:
    torch.manual_seed(0)
    config = replace(
        li2017.paper, encoder=vgg.Config(connected=(9, 9, 4)), text_encoder=text.Config("lstm", 3),
        projection=5 if projected else None,
    )  # fmt: skip
    head, features, sentences = li2017.DynamicFilter(config), torch.randn(2, 4, 2, 3) * 9, torch.randn(2, 3) * 2
    with torch.no_grad():
        found = head(features, sentences)
        seen = head.projection(features) if projected else features
        weight, bias = head.filter.weight, head.filter.bias
        if projected:
            matrix, offset = head.projection.weight[..., 0, 0], head.projection.bias
            assert torch.allclose(seen[1, :, 1, 2], matrix @ features[1, :, 1, 2] + offset, atol=1e-5)
    assert found.shape == (2, 1, 2, 3)
    for n in range(2):
        filter_ = [1 / (1 + (-(row @ sentences[n] + b)).exp().item()) for row, b in zip(weight, bias, strict=True)]
        for y in range(2):
            for x in range(3):
                left, right, top, bottom = 2 * x / 3 - 1, 2 * (x + 1) / 3 - 1, y - 1, y
                where = [left, top, right, bottom, (left + right) / 2, (top + bottom) / 2, 1 / 3, 1 / 2]
                values = [*seen[n, :, y, x].tolist(), *where]
                expected = sum(f * value for f, value in zip(filter_, values, strict=True))
                assert found[n, 0, y, x].item() == pytest.approx(expected, abs=1e-4)


def test_features_that_are_never_negative_give_negative_responses_by_the_projection_alone() -> None:
    assert isinstance(li2017.small.encoder, resnet.Config) and li2017.small.projection == 128
    torch.manual_seed(0)
    features, sentences = 100 * torch.rand(64, 192, 1, 1), torch.randn(64, 128)
    for config, some_are_negative in ((li2017.small, True), (replace(li2017.small, projection=None), False)):
        with torch.no_grad():
            responses = torch.stack([li2017.DynamicFilter(config)(features, sentences) for _ in range(8)])
        assert bool((responses < 0).any()) == some_are_negative


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("size", "golden"),
    [
        ("small", [2.17484, 1.79765, 1.15288, 0.52125, 0.28411]),
        ("paper", [0.94841, 0.78639, 0.64987, 0.53642, 0.44328]),
    ],
)
def test_the_first_five_losses_are_those_recorded(size: str, golden: list[float]) -> None:
    """Of `small` as it is, and of `paper` on a small VGG."""
    torch.manual_seed(0)
    config = replace(getattr(li2017, size), crop=None)
    if size == "paper":
        config = replace(config, encoder=vgg.SMALL, text_encoder=text.Config("lstm", 16))
    losses = steps_of_training(li2017.build(config, A2D).train(), batch(64, 96, frames=1), steps=5)
    assert losses == pytest.approx(golden, abs=1e-3)
