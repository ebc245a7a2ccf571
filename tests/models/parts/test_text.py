"""Text encoders, spatial coordinates, dynamic filters and the logistic loss, against their equations as plain loops."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE
from models.parts import text
from models.parts.network import parameter_count
from models.parts.text import WORD_CHANNELS, TextEncoder, dynamic_convolution, logistic_loss, with_coordinates

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("conv", "lstm", "bilstm")
LENGTHS = (3, 1, 0, 4)


def encoder(kind: str, *, channels: int = 5) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(text.Config(kind=kind, channels=channels))


def sentences(lengths: tuple[int, ...] = LENGTHS, *, rows: int = 4) -> tuple[Tensor, Tensor]:
    """Random words (B, ``rows``, 300), zeros behind the last of each sentence, and the lengths."""
    words = torch.randn(len(lengths), rows, WORD_CHANNELS, generator=torch.Generator().manual_seed(1))
    for sentence, length in zip(words, lengths, strict=True):
        sentence[length:] = 0
    return words, torch.tensor(lengths)


def convolved(encoder: TextEncoder, words: Tensor) -> Tensor:
    """Section 3.1 for one sentence (L, 300), window by window: each word and the next, zeros behind the last."""
    layer = encoder.layer
    assert isinstance(layer, nn.Conv1d) and layer.bias is not None
    following = [*words[1:], torch.zeros(WORD_CHANNELS)]
    windows = [
        (layer.weight[:, :, 0] @ word + layer.weight[:, :, 1] @ after + layer.bias).clamp(min=0)
        for word, after in zip(words, following, strict=True)
    ]
    return torch.stack(windows).amax(0)


def final_state(layer: nn.Module, words: Tensor, *, suffix: str) -> Tensor:
    """Hidden state of one direction of an LSTM behind ``words``, step by step."""
    of_input, of_state, bias, state_bias = (
        getattr(layer, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = torch.zeros(of_state.shape[1])
    for word in words:
        gates = of_input @ word + bias + of_state @ hidden + state_bias
        enters, forgets, candidate, leaves = gates.chunk(4)
        cell = forgets.sigmoid() * cell + enters.sigmoid() * candidate.tanh()
        hidden = leaves.sigmoid() * cell.tanh()
    return hidden


# Text encoders


def test_the_convolution_is_a_maximum_over_windows_of_two_words() -> None:
    network, (words, lengths) = encoder("conv"), sentences()
    with torch.no_grad():
        found = network(words, lengths)
        for n, length in enumerate(LENGTHS):
            expected = convolved(network, words[n, :length]) if length else torch.zeros(5)
            assert torch.allclose(found[n], expected, atol=1e-5)
    assert (found > 0).any() and (found == 0).any(), "ReLU cuts some off, not all"


def test_the_lstm_s_text_features_are_its_state_behind_the_last_word() -> None:
    network, (words, lengths) = encoder("lstm"), sentences()
    with torch.no_grad():
        found = network(words, lengths)
        for n, length in enumerate(LENGTHS):
            assert torch.allclose(found[n], final_state(network.layer, words[n, :length], suffix=""), atol=1e-5)


def test_the_bidirectional_lstm_reads_forwards_and_backwards_from_the_last_word() -> None:
    network, (words, lengths) = encoder("bilstm"), sentences()
    with torch.no_grad():
        found = network(words, lengths)
        for n, length in enumerate(LENGTHS):
            own = words[n, :length]
            forwards = final_state(network.layer, own, suffix="")
            backwards = final_state(network.layer, own.flip(0), suffix="_reverse")
            assert torch.allclose(found[n], torch.cat([forwards, backwards]), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [5, 20])
def test_padding_changes_no_text_features(kind: str, rows: int) -> None:
    network, (words, lengths) = encoder(kind), sentences()
    padded = F.pad(words, (0, 0, 0, rows - 4))
    with torch.no_grad():
        assert torch.allclose(network(padded, lengths), network(words, lengths), atol=1e-6)
        alone = [network(words[n : n + 1, :length], lengths[n : n + 1]) for n, length in enumerate(LENGTHS)]
        assert torch.allclose(network(padded, lengths), torch.cat(alone), atol=1e-6)


def test_windows_of_padding_never_win_the_maximum() -> None:
    network = encoder("conv")
    assert isinstance(network.layer, nn.Conv1d) and network.layer.bias is not None
    with torch.no_grad():
        network.layer.weight.fill_(-0.01)
        network.layer.bias.fill_(2)  # what a window of zeros gives
        words = torch.zeros(1, 6, WORD_CHANNELS)
        words[:, :2] = 0.5
        # 300 * -0.01 * 0.5 = -1.5 a word: the window of the second word and zeros gives 0.5, that of both 0
        assert torch.allclose(network(words, torch.tensor([2])), torch.full((1, 5), 0.5), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 3])
def test_a_sentence_without_a_known_word_has_text_features_of_zeros(kind: str, rows: int) -> None:
    found = encoder(kind)(torch.zeros(2, rows, WORD_CHANNELS), torch.tensor([0, 0]))
    assert found.shape == (2, 10 if kind == "bilstm" else 5) and not found.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 200])
def test_sentences_of_one_and_of_200_words_have_features_that_are_learnt_from(kind: str, length: int) -> None:
    network, (words, lengths) = encoder(kind), sentences((length,), rows=length)
    found = network(words, lengths)
    found.sum().backward()
    assert found.any() and all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_words_matters(kind: str) -> None:
    network, (words, lengths) = encoder(kind), sentences((4,))
    with torch.no_grad():
        assert not torch.allclose(network(words, lengths), network(words.flip(1), lengths), atol=1e-3)


@pytest.mark.parametrize(
    ("config", "outputs", "count"),
    [
        (text.CONV, 300, 2 * 300 * 300 + 300),
        (text.LSTM, 1000, 4 * 1000 * (300 + 1000 + 2)),
        (text.BILSTM, 2000, 2 * 4 * 1000 * (300 + 1000 + 2)),
    ],
)
def test_the_paper_s_sizes(config: text.Config, outputs: int, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(TextEncoder(config)) == count
    assert config.outputs == outputs


def test_an_unknown_kind_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"`gru` is none of `conv`, `lstm`, `bilstm`"):
        text.Config(kind="gru")


# Spatial coordinates


@pytest.mark.parametrize(("height", "width"), [(2, 3), (1, 1), (5, 4)])
def test_coordinates_are_the_cell_s_edges_and_centre_and_the_map_s_size(height: int, width: int) -> None:
    features = torch.randn(2, 3, height, width)
    found = with_coordinates(features)
    assert found.shape == (2, 3 + text.COORDINATES, height, width) and torch.equal(found[:, :3], features)
    for row in range(height):
        for column in range(width):
            left, top = 2 * column / width - 1, 2 * row / height - 1
            right, bottom = 2 * (column + 1) / width - 1, 2 * (row + 1) / height - 1
            centre = ((left + right) / 2, (top + bottom) / 2)
            expected = torch.tensor([left, top, right, bottom, *centre, 1 / width, 1 / height])
            assert torch.allclose(found[:, 3:, row, column], expected.expand(2, -1), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_coordinates_are_of_the_features_type(kind: torch.dtype) -> None:
    assert with_coordinates(torch.zeros(1, 1, 2, 2, dtype=kind)).dtype == kind


# Dynamic filters


def test_each_sample_is_convolved_with_its_own_filter() -> None:
    features, filters = torch.randn(3, 4, 2, 5), torch.randn(3, 4)
    found = dynamic_convolution(features, filters)
    assert found.shape == (3, 1, 2, 5)
    for n in range(3):
        assert torch.allclose(
            found[n : n + 1], F.conv2d(features[n : n + 1], filters[n][None, :, None, None]), atol=1e-5
        )


# The loss


def loop(response: Tensor, mask: Tensor, *, background: float) -> float:
    """Equations 4 and 5 pixel by pixel, for a mask of the response's size."""
    total = count = 0.0
    for score, truth in zip(response.flatten().tolist(), mask.flatten().tolist(), strict=True):
        if truth != IGNORE:
            weight = 1.0 if truth == 1 else background
            total += weight * math.log(1 + math.exp(-score * (1 if truth == 1 else -1)))
            count += weight
    return total / count


def some_mask(*shape: int) -> Tensor:
    """Random labels of all three kinds."""
    values = torch.tensor([0, 1, IGNORE], dtype=torch.uint8)
    return values[torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(2))]


@pytest.mark.parametrize("background", [1.0, 0.25])
def test_the_loss_is_the_mean_of_equation_5_over_labelled_pixels(background: float) -> None:
    response, mask = torch.randn(2, 1, 6, 5), some_mask(2, 6, 5)
    assert logistic_loss(response, mask, background=background).item() == pytest.approx(
        loop(response, mask, background=background), abs=1e-5
    )


def test_with_every_pixel_labelled_it_is_equation_4() -> None:
    response, mask = torch.randn(1, 1, 8, 8), some_mask(1, 8, 8) % 2
    sign = torch.where(mask == 1, 1, -1)[:, None]
    expected = (1 + (-response * sign).exp()).log().sum() / 8**2
    assert logistic_loss(response, mask, background=1.0).item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_larger_mask_counts_at_the_centre_of_each_cell() -> None:
    response, mask = torch.randn(2, 1, 3, 2), some_mask(2, 48, 32)
    assert logistic_loss(response, mask, background=0.5).item() == pytest.approx(
        loop(response, mask[:, 8::16, 8::16], background=0.5), abs=1e-5
    )


@pytest.mark.parametrize("share", [0, 0.25])
def test_a_pixel_that_nobody_labelled_has_no_gradient(share: float) -> None:
    response = torch.randn(1, 1, 4, 4, requires_grad=True)
    mask = torch.full((1, 4, 4), IGNORE, dtype=torch.uint8)
    mask[:, : round(4 * share)] = 1
    loss = logistic_loss(response, mask, background=1.0)
    loss.backward()
    assert response.grad is not None
    assert torch.equal(response.grad[:, 0] != 0, mask == 1)
    assert (loss.item() > 0) == (share > 0)


@pytest.mark.parametrize(("score", "expected"), [(1e4, 1e4), (-1e4, 0.0), (0.0, math.log(2))])
def test_the_loss_of_a_background_pixel_is_finite_however_large_the_response(score: float, expected: float) -> None:
    loss = logistic_loss(torch.full((1, 1, 2, 2), score), torch.zeros(1, 2, 2, dtype=torch.uint8), background=0.3)
    assert loss.item() == pytest.approx(expected)
