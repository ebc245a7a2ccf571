"""Hu et al. 2016: its classifier position by position, its sizes and its training; the rest is in test_vgg.py."""

from dataclasses import replace

import pytest
import torch

from models import hu2016
from models.parts import text, vgg
from models.parts.network import parameter_count
from stages.core.datasets.labels import A2D
from tests.models.test_sentence import batch
from tests.models.test_ssa2d import float64, steps_of_training  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")


def on_meta(config: hu2016.Config) -> vgg.Segmenter:
    """The network without its weights: for counts."""
    with torch.device("meta"):
        return hu2016.build(config, A2D)


def lstm_count(channels: int) -> int:
    """Parameters of an LSTM over word vectors: four gates, each with two biases."""
    return 4 * channels * (300 + channels + 2)


def test_the_paper_s_network_has_the_size_that_follows_from_its_parts() -> None:
    network = on_meta(hu2016.paper)
    assert parameter_count(network.text) == lstm_count(1000)
    assert parameter_count(network.head) == (1000 + 1000 + 8) * 500 + 500 + 500 + 1
    assert parameter_count(network.upsample) == 64 * 64
    whole = sum(parameter.numel() for parameter in network.parameters())
    convolutions = 14_714_688  # of VGG16, which are fixed
    assert whole == 138_357_544 + lstm_count(1000) + 1_005_001 + 4096 == 144_574_641
    assert parameter_count(network) == 129_859_953 == whole - convolutions


def test_the_small_network_s_size_is_known() -> None:
    network = on_meta(hu2016.small)
    head = (192 + 128 + 8) * 128 + 128 + 128 + 1
    assert parameter_count(network) == 956_089 == 693_432 + lstm_count(128) + head + 16 * 16


def test_the_paper_s_training_is_that_of_the_released_code() -> None:
    training = hu2016.paper.training
    assert (training.steps, training.batch, training.optimiser, training.weight_decay) == (18_000, 10, "sgd", 5e-4)
    assert training.learning_rates == {"encoder": 0.01, "rest": 0.01}
    assert training.schedule == "step:6000,12000:0.1"
    assert hu2016.paper.background_weight == pytest.approx(1 / 3)
    assert hu2016.paper.text_encoder == text.LSTM and hu2016.paper.crop == (512, 512)


def length_1(values: list[float]) -> list[float]:
    norm = sum(value * value for value in values) ** 0.5
    return [value / norm for value in values]


def test_a_position_s_response_is_that_of_its_features_the_sentence_and_where_it_is() -> None:
    torch.manual_seed(0)
    config = replace(
        hu2016.small, encoder=vgg.Config(connected=(9, 9, 4)), text_encoder=text.Config("lstm", 3), hidden=5
    )
    head, features, sentences = hu2016.Classifier(config), torch.randn(2, 4, 2, 3) * 9, torch.randn(2, 3) * 7
    hidden, output = ([layer.weight[..., 0, 0].tolist(), layer.bias.tolist()] for layer in (head.hidden, head.output))
    with torch.no_grad():
        found = head(features, sentences)
    assert found.shape == (2, 1, 2, 3)
    for n in range(2):
        for y in range(2):
            for x in range(3):
                left, right, top, bottom = 2 * x / 3 - 1, 2 * (x + 1) / 3 - 1, y - 1, y
                where = [left, top, right, bottom, (left + right) / 2, (top + bottom) / 2, 1 / 3, 1 / 2]
                seen = [*length_1(sentences[n].tolist()), *length_1(features[n, :, y, x].tolist()), *where]
                values = [
                    max(0.0, sum(w * value for w, value in zip(weights, seen, strict=True)) + bias)
                    for weights, bias in zip(*hidden, strict=True)
                ]
                expected = sum(w * value for w, value in zip(output[0][0], values, strict=True)) + output[1][0]
                assert found[n, 0, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_how_long_features_and_states_are_says_nothing() -> None:
    torch.manual_seed(0)
    head, features, sentences = hu2016.Classifier(hu2016.small), torch.randn(2, 192, 2, 3), torch.randn(2, 128)
    with torch.no_grad():
        assert torch.allclose(head(features, sentences), head(features * 5, sentences / 9), atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("size", "golden"),
    [
        ("small", [0.70695, 0.70475, 0.70043, 0.69417, 0.68629]),
        ("paper", [0.66795, 0.52646, 0.42692, 0.33523, 0.26592]),
    ],
)
def test_the_first_five_losses_are_those_recorded(size: str, golden: list[float]) -> None:
    """Of `small` as it is, and of `paper` on a small VGG."""
    torch.manual_seed(0)
    config = replace(getattr(hu2016, size), crop=None)
    if size == "paper":
        config = replace(config, encoder=vgg.SMALL, text_encoder=text.Config("lstm", 16))
    losses = steps_of_training(hu2016.build(config, A2D).train(), batch(64, 96, frames=1), steps=5)
    assert losses == pytest.approx(golden, abs=1e-3)
