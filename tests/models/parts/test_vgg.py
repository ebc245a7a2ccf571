"""VGG16: torchvision's keys, counts and values; the segmenter of the baselines on it, with any head and with theirs."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, hu2016, li2017
from models.base import SINGLE_FRAME
from models.parts import resnet, text, vgg
from models.parts.network import Training, load_encoder, parameter_count
from models.parts.text import TextBatch
from stages.core.datasets.labels import A2D
from tests.models.test_sentence import batch, recorded, some_of, squares
from tests.models.test_ssa2d import steps_of_training

pytestmark = pytest.mark.usefixtures("one_thread")

ENCODERS = {"vgg": vgg.SMALL, "resnet": resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False)}
"""Small ones of both kinds, of strides 32 and 8."""
TEXT = text.Config(kind="lstm", channels=12)
METHODS = pytest.mark.parametrize("method", [hu2016, li2017], ids=["hu2016", "li2017"])
KINDS = pytest.mark.parametrize("kind", list(ENCODERS))


def on_meta(config: vgg.Config) -> vgg.VGG:
    """The network without its weights: for keys, counts and shapes."""
    with torch.device("meta"):
        return vgg.VGG(config)


# VGG16


def test_vgg16_has_as_many_parameters_as_torchvision_publishes() -> None:
    assert parameter_count(on_meta(vgg.VGG16)) == 138_357_544


def test_the_small_network_s_size_is_known() -> None:
    assert parameter_count(on_meta(vgg.SMALL)) == 127_720


def torchvision_shapes(config: vgg.Config) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of torchvision's vgg16, with the sizes of ``config``."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs, index = 3, 0
    for block in config.blocks:
        for channels in block:
            shapes |= {f"features.{index}.weight": (channels, inputs, 3, 3), f"features.{index}.bias": (channels,)}
            inputs, index = channels, index + 2
        index += 1
    inputs *= 7 * 7
    for index, channels in zip((0, 3, 6), config.connected, strict=True):
        shapes |= {f"classifier.{index}.weight": (channels, inputs), f"classifier.{index}.bias": (channels,)}
        inputs = channels
    return shapes


def public(config: vgg.Config = vgg.SMALL) -> dict[str, Tensor]:
    """Random weights under torchvision's keys, of about the size that keeps features as large as they come."""
    random = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in torchvision_shapes(config).items():
        inputs = torch.Size(shape[1:]).numel()
        weights[key] = torch.randn(shape, generator=random) * (2 / inputs) ** 0.5 if inputs > 1 else torch.rand(shape)
    return weights


def test_keys_are_torchvision_s_and_shapes_but_for_kernels_too() -> None:
    own, expected = on_meta(vgg.VGG16).state_dict(), torchvision_shapes(vgg.VGG16)
    some = {"features.0.weight": (64, 3, 3, 3), "features.28.bias": (512,), "classifier.0.weight": (4096, 25_088)}
    assert len(expected) == 32 and {key: expected[key] for key in some} == some
    assert own.keys() == expected.keys()
    for key, value in own.items():
        matrix = key.startswith("classifier.") and key.endswith("weight")
        assert (value.flatten(1) if matrix else value).shape == expected[key]
    assert own["classifier.0.weight"].shape == (4096, 512, 7, 7)


def test_public_weights_of_vgg16_fit() -> None:
    network = on_meta(vgg.VGG16)
    with torch.device("meta"):
        weights = {key: torch.empty(shape) for key, shape in torchvision_shapes(vgg.VGG16).items()}
    renamed = network.renamed(weights)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in network.state_dict().items()}


def reference(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """torchvision's vgg16 in evaluation, of a picture of 224 x 224: (B, 3, 224, 224) to (B, classes)."""
    index = 0
    for block in vgg.SMALL.blocks:
        for _ in block:
            x = F.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1).relu()
            index += 2
        x = F.max_pool2d(x, 2)
        index += 1
    x = x.flatten(1)
    for index in (0, 3, 6):
        x = F.linear(x, weights[f"classifier.{index}.weight"], weights[f"classifier.{index}.bias"])
        x = x.relu() if index < 6 else x
    return x


def test_in_the_middle_of_a_picture_of_224_pixels_stands_what_torchvision_s_network_says_of_it() -> None:
    weights, network = public(), vgg.VGG(vgg.SMALL)
    load_encoder(network, weights, where="vgg16.pth")
    pictures = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network(pictures), reference(weights, pictures)
    assert found.shape == (2, 32, 7, 7) and expected.std() > 0.1 and expected.min() < 0
    assert torch.allclose(found[:, :, 3, 3], expected, atol=1e-4)


def test_one_network_serves_frames_of_any_size_and_leaves_out_what_is_less_than_32_pixels() -> None:
    network = on_meta(vgg.VGG16)
    for size, expected in (((512, 512), (16, 16)), ((288, 511), (9, 15)), ((63, 32), (1, 1))):
        assert network(torch.zeros(2, 3, *size, device="meta")).shape == (2, 1000, *expected)
    assert (vgg.VGG16.stride, vgg.VGG16.channels) == (32, 1000)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classifier.0.weight": torch.zeros(32 * 49, 64)}, r"other shapes \['classifier.0.weight'\]"),
        ({"classifier.6.weight": torch.zeros(20, 64)}, r"other shapes \['classifier.6.weight'\]"),
        ({"features.1.running_mean": torch.zeros(8)}, r"unexpected keys \['features.1.running_mean'\]"),
        ({"classifier.3.weight": None}, r"missing keys \['classifier.3.weight'\]"),
    ],
    ids=["a transposed matrix", "another number of classes", "batch norms", "no classifier"],
)
def test_other_weights_are_refused_with_the_key_that_differs(changed: dict[str, Tensor | None], message: str) -> None:
    weights = {key: value for key, value in (public() | changed).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_encoder(vgg.VGG(vgg.SMALL), weights, where="vgg16.pth")


def test_an_untrained_network_neither_loses_nor_blows_up_its_input() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        output = vgg.VGG(vgg.SMALL)(torch.randn(2, 3, 96, 96))
    assert 0.1 < output.std() < 10


# The segmenter with any head


class FirstChannel(nn.Module):
    """A head that takes no notice of the sentence: features (B, C, h, w) to their first channel (B, 1, h, w)."""

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        return features[:, :1]


def segmenter(kind: str = "vgg", **changes: Any) -> vgg.Segmenter:
    torch.manual_seed(0)
    training = Training(steps=10, batch=2)
    config = vgg.SegmenterConfig(training=training, encoder=ENCODERS[kind], text_encoder=TEXT, crop=None)
    return vgg.Segmenter(replace(config, **changes), head=FirstChannel())


@KINDS
def test_the_encoder_sees_the_frame_as_public_weights_expect(kind: str) -> None:
    network, given = segmenter(kind).eval(), batch(64, 96, frames=1)
    seen, _ = recorded(network, network.encoder, given)
    assert torch.equal(seen, resnet.picture(given["frames"][:, 0]))


def test_the_deconvolution_starts_as_bilinear_interpolation() -> None:
    for kind, stride in (("vgg", 32), ("resnet", 8)):
        network = segmenter(kind)
        small = torch.randn(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found = network.upsample(small)
        expected = F.interpolate(small, scale_factor=stride, mode="bilinear", align_corners=False)
        inside = slice(stride // 2, -stride // 2)  # at the edges a deconvolution sees zeros outside
        assert found.shape == expected.shape
        assert torch.allclose(found[..., inside, inside], expected[..., inside, inside], atol=1e-5)
    top, left = 2 * 8 + 5, 8 + 6  # between rows 2 and 3, weights 13/16 - 1/8, and columns 1 and 2
    down, right = (5.5 - 4) / 8, (6.5 - 4) / 8
    rows = [(1 - right) * small[0, 0, y, 1] + right * small[0, 0, y, 2] for y in (2, 3)]
    assert found[0, 0, top, left].item() == pytest.approx(((1 - down) * rows[0] + down * rows[1]).item(), abs=1e-5)


@KINDS
def test_the_response_is_the_head_s_map_upsampled(kind: str) -> None:
    network, given = segmenter(kind).eval(), batch(64, 96, frames=1)
    _, features = recorded(network, network.encoder, given)
    with torch.no_grad():
        expected = network.upsample(features[:, :1])[:, 0]
    assert torch.equal(network.response(given), expected) and expected.shape == (2, 64, 96)


@KINDS
def test_the_loss_is_the_logistic_one_at_full_resolution_over_labelled_pixels(kind: str) -> None:
    network, given = segmenter(kind, background_weight=0.25).eval(), batch(64, 96, frames=1)
    given["mask"][:, :, :, 60:] = IGNORE
    losses = network.loss(given)
    labelled = network.response(given)[:, :, :60]
    total = weights = 0.0
    for response, truth in zip(labelled.flatten(), given["mask"][:, 0, :, :60].flatten(), strict=True):
        weight = 1.0 if truth == 1 else 0.25
        total += weight * F.softplus(-response if truth == 1 else response).item()
        weights += weight
    assert losses.keys() == {"loss"} and losses["loss"].item() == pytest.approx(total / weights, rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(37, 70), (64, 65), (33, 31)])
@KINDS
def test_frames_of_odd_sizes_are_padded_with_black_and_the_padding_is_cut_off_and_never_learnt_from(
    kind: str, height: int, width: int
) -> None:
    network, given = segmenter(kind).eval(), batch(height, width, frames=1)
    stride = ENCODERS[kind].stride
    padded, (below, right) = TextBatch(**given), (-height % stride, -width % stride)
    padded["frames"] = F.pad(given["frames"], (0, 0, 0, right, 0, below))
    padded["mask"] = F.pad(given["mask"], (0, right, 0, below), value=IGNORE)
    found = network.response(given)
    assert found.shape == (2, height, width) and torch.equal(found, network.response(padded)[:, :height, :width])
    assert network.loss(given)["loss"] == network.loss(padded)["loss"]
    padded["mask"][padded["mask"] == IGNORE] = 0
    assert network.loss(given)["loss"] != network.loss(padded)["loss"]


def test_frames_smaller_than_the_crop_are_padded_to_its_size() -> None:
    network, given = segmenter(crop=(64, 32)).eval(), batch(32, 96, frames=1)
    assert network(given).shape == (2, 1, 64, 96), "the width is the frame's, the height the crop's"
    padded = TextBatch(**given)
    padded["frames"] = F.pad(given["frames"], (0, 0, 0, 0, 0, 32))
    assert torch.equal(network.response(given), network.response(padded)[:, :32])


def test_the_convolutions_of_vgg_are_fixed_and_a_residual_network_learns_whole() -> None:
    for kind, slot in (("vgg", "vgg16"), ("resnet", "rgb2d")):
        network = segmenter(kind)
        fixed = {name for name, parameter in network.encoder.named_parameters() if not parameter.requires_grad}
        of_all = dict(network.encoder.named_parameters())
        assert fixed == {name for name in of_all if name.startswith("features.")}
        assert network.encoder_slots() == {slot: network.encoder}
        groups = network.parameter_groups()
        assert set(groups["encoder"]) == {parameter for name, parameter in of_all.items() if name not in fixed}
        assert set(groups["rest"]) == {*network.text.parameters(), *network.upsample.parameters()}


# Both methods


def build(method: ModuleType, kind: str = "resnet") -> vgg.Segmenter:
    """The method's network on a small encoder: its `paper` on VGG, its `small` on a residual network."""
    torch.manual_seed(0)
    config = method.paper if kind == "vgg" else method.small
    return method.build(replace(config, encoder=ENCODERS[kind], text_encoder=TEXT, crop=None), A2D)


@METHODS
def test_single_rgb_frames_are_the_only_input(method: ModuleType) -> None:
    for config in (method.paper, method.small):
        assert method.with_inputs(config, "rgb") == config and config.window == SINGLE_FRAME
        for inputs in ("flow", "rgb+flow"):
            with pytest.raises(ValueError, match=rf"{method.__name__[7:]}: inputs `{inputs[:3]}.*write `rgb`"):
                method.with_inputs(config, inputs)


@METHODS
def test_both_sizes_are_two_values_of_one_class_and_start_from_weights_that_there_are(method: ModuleType) -> None:
    assert type(method.paper) is type(method.small) is method.Config
    with torch.device("meta"):
        paper, small = (method.build(config, A2D) for config in (method.paper, method.small))
    assert list(paper.encoder_slots()) == ["vgg16"] and method.paper.encoder == vgg.VGG16
    assert list(small.encoder_slots()) == ["rgb2d"]
    pretrained = resnet.ResNet(resnet.SMALL).state_dict()  # what stage `pretrain` saves as rgb2d
    network = method.build(method.small, A2D)
    load_encoder(network.encoder, pretrained, where="rgb2d.pt")
    assert all(torch.equal(value, pretrained[key]) for key, value in network.encoder.state_dict().items())
    for each, config in ((paper, method.paper), (small, method.small)):
        assert each.parameter_groups().keys() == config.training.learning_rates.keys()
        assert each.config == config


@METHODS
@pytest.mark.parametrize(("height", "width"), [(512, 512), (288, 511), (400, 300)])
def test_the_paper_s_map_is_of_16_positions_a_side_for_any_frame_that_512_holds(
    method: ModuleType, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        network, given = method.build(method.paper, A2D).eval(), batch(height, width, frames=1)
        monkeypatch.setattr(network.text, "forward", lambda words, lengths: torch.zeros(2, 1000))  # none on meta
        _, response = recorded(network, network.head, given)
        assert response.shape == (2, 1, 16, 16)
        assert network.response(given).shape == (2, height, width)


@METHODS
@KINDS
def test_the_head_alone_sees_the_sentence_and_another_sentence_gives_another_map(method: ModuleType, kind: str) -> None:
    network, given = build(method, kind).eval(), batch(64, 96, frames=1)
    other = TextBatch(frames=given["frames"], words=given["words"].flip(0), lengths=given["lengths"].flip(0))
    (_, features), (_, same) = (recorded(network, network.encoder, asked) for asked in (given, other))
    assert torch.equal(features, same)
    (_, sentences), (_, flipped) = (recorded(network, network.text, asked) for asked in (given, other))
    assert torch.allclose(sentences, flipped.flip(0), atol=1e-6)
    assert ((network.response(given) - network.response(other)).abs().amax((1, 2)) > 1e-4).all()


@METHODS
@KINDS
def test_a_window_alone_is_answered_as_in_a_batch(method: ModuleType, kind: str) -> None:
    network, given = build(method, kind).eval(), batch(64, 96, frames=1)
    together = network.response(given)
    for n in range(2):
        alone = some_of(given, slice(n, n + 1))
        alone["words"] = alone["words"][:, : int(alone["lengths"])]
        assert torch.allclose(network.response(alone)[0], together[n], atol=1e-5)


@METHODS
@KINDS
def test_sentences_without_a_known_word_are_answered_all_alike(method: ModuleType, kind: str) -> None:
    network, given = build(method, kind).train(), batch(64, 96, frames=1)
    given["lengths"] = torch.zeros(2, dtype=torch.int64)
    given["words"] = torch.zeros(2, 0, 300)
    network.loss(given)["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    network.eval()
    short = network.response(given)
    given["words"] = torch.zeros(2, 7, 300)
    assert short.isfinite().all() and torch.equal(short, network.response(given))


@METHODS
@KINDS
def test_every_parameter_that_learns_gets_gradient_and_a_step_of_training_lowers_the_loss(
    method: ModuleType, kind: str
) -> None:
    network = build(method, kind).train()
    given = batch(64, 96, frames=1)
    losses = steps_of_training(network, given, steps=4)
    assert losses[-1] < losses[0]
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None and parameter.grad.any()) == parameter.requires_grad, name


@METHODS
def test_it_learns_to_find_the_square_of_the_colour_that_a_word_asks_for(method: ModuleType) -> None:
    random = torch.Generator().manual_seed(0)
    words = torch.randn(2, 300, generator=random)
    network = build(method).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(80):
        loss = network.loss(squares(8, random, words))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    given = squares(32, random, words)
    found, true = network.eval().response(given) > 0, given["mask"][:, 0] == 1
    iou = (found & true).sum((1, 2)) / (found | true).sum((1, 2))
    assert iou.mean() > 0.65, "both squares would be 0.5"
    given["words"] = words.sum(0) - given["words"]
    assert ((network.response(given) > 0) & true).sum() < 0.2 * true.sum(), "asked for the other, not this one"
