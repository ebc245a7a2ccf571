"""I3D: the published sizes and end points, the keys of the public PyTorch port, and TensorFlow's `same` padding."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import ssa2d
from models.parts import i3d
from models.parts.network import load_encoder, parameter_count


def on_meta(config: i3d.Config) -> i3d.I3D:
    """The network without its weights: for keys, counts and shapes."""
    with torch.device("meta"):
        return i3d.I3D(config)


def test_the_paper_s_size_is_12_29_million_up_to_mixed_5c() -> None:
    # Carreira and Zisserman's table gives 12 M (without the classifier).
    assert parameter_count(on_meta(i3d.Config())) == 12_287_264
    assert parameter_count(on_meta(i3d.Config(inputs=2))) == 12_287_264 - 64 * 7**3


def test_keys_and_shapes_are_those_of_the_public_port() -> None:
    state = on_meta(i3d.Config()).state_dict()
    expected = {
        "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7), "Conv3d_1a_7x7.bn.running_mean": (64,),
        "Conv3d_2c_3x3.conv3d.weight": (192, 64, 3, 3, 3), "Mixed_3b.b1a.conv3d.weight": (96, 192, 1, 1, 1),
        "Mixed_3b.b1b.bn.bias": (128,), "Mixed_4f.b2b.conv3d.weight": (128, 32, 3, 3, 3),
        "Mixed_5c.b3b.conv3d.weight": (128, 832, 1, 1, 1), "Mixed_5c.b0.bn.num_batches_tracked": (),
    }  # fmt: skip
    assert {key: tuple(state[key].shape) for key in expected} == expected
    units = 3 + 9 * 6
    assert len(state) == units * 6  # a weight, and five of the batch norm; no bias of convolutions


@pytest.mark.parametrize(
    ("endpoint", "shape"),
    [
        ("Conv3d_1a_7x7", (64, 8, 112, 112)), ("Conv3d_2c_3x3", (192, 8, 56, 56)), ("Mixed_3c", (480, 8, 28, 28)),
        ("Mixed_4f", (832, 4, 14, 14)), ("Mixed_5c", (1024, 2, 7, 7)),
    ],
)  # fmt: skip
def test_end_points_have_the_published_shapes(endpoint: str, shape: tuple[int, ...]) -> None:
    network = on_meta(i3d.Config())
    features = network(torch.zeros(1, 3, 16, 224, 224, device="meta"), (endpoint,))
    assert list(features) == [endpoint] and features[endpoint].shape == (1, *shape)
    assert network.config.channels(endpoint) == shape[0]


def test_strides_can_be_taken_out() -> None:
    config = i3d.Config(last="Mixed_5b", strides={"MaxPool3d_5a_2x2": (1, 1, 1), "Conv3d_1a_7x7": (1, 2, 2)})
    features = on_meta(config)(torch.zeros(1, 3, 16, 64, 64, device="meta"), ("Mixed_5b",))
    assert features["Mixed_5b"].shape == (1, 832, 8, 4, 4)
    assert parameter_count(on_meta(config)) < parameter_count(on_meta(i3d.Config()))


def test_what_is_asked_for_does_not_change_what_is_computed() -> None:
    torch.manual_seed(0)
    network = i3d.I3D(i3d.Config(width=0.1, last="Mixed_4b")).eval()
    x = torch.randn(1, 3, 5, 33, 41)
    alone = network(x, ("Mixed_3c",))["Mixed_3c"]
    assert torch.equal(network(x, ("Conv3d_2c_3x3", "Mixed_3c", "Mixed_4b"))["Mixed_3c"], alone)


def same_padding(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's rule, written as its documentation does: one axis at a time, the odd one after."""
    for axis, k, s in zip((2, 3, 4), kernel, stride, strict=True):
        length = x.shape[axis]
        total = max(k - s, 0) if length % s == 0 else max(k - length % s, 0)
        before = [*x.shape]
        before[axis] = total // 2
        after = [*x.shape]
        after[axis] = total - total // 2
        x = torch.cat([torch.zeros(before), x, torch.zeros(after)], dim=axis)
    return x


@pytest.mark.parametrize("size", [(16, 24, 24), (5, 7, 9), (4, 6, 11), (1, 1, 1), (3, 101, 77)])
def test_padding_is_tensorflow_s_same(size: tuple[int, int, int]) -> None:
    x = torch.rand(1, 1, *size)
    for kernel, stride in itertools.product([(7, 7, 7), (1, 3, 3), (2, 2, 2)], [(2, 2, 2), (1, 2, 2), (1, 1, 1)]):
        before, after = i3d.same_padding(size, kernel, stride)
        expected = same_padding(x, kernel, stride)
        sides = [side for pair in zip(before[::-1], after[::-1], strict=True) for side in pair]
        assert torch.equal(F.pad(x, sides), expected)


@pytest.mark.parametrize("size", [(16, 24, 24), (5, 7, 9), (4, 6, 11), (1, 1, 1), (3, 101, 77)])
def test_pools_pad_as_tensorflow_does(size: tuple[int, int, int]) -> None:
    x = torch.rand(1, 1, *size)
    for kernel, stride in [*i3d.POOLS.values(), ((3, 3, 3), (1, 1, 1))]:
        pooled = i3d.Pool(kernel, stride)(x)
        assert torch.equal(pooled, F.max_pool3d(same_padding(x, kernel, stride), kernel, stride))
        assert pooled.shape[2:] == tuple(math.ceil(n / s) for n, s in zip(size, stride, strict=True))


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (1, 3, 3)])
def test_a_unit_that_pads_both_sides_alike_convolves_the_padded_input(kernel: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    unit = i3d.Unit(2, 3, kernel).eval()
    x = torch.randn(1, 2, 5, 8, 7)
    expected = F.conv3d(same_padding(x, kernel, (1, 1, 1)), unit.conv3d.weight) / math.sqrt(1 + 1e-3)
    assert torch.allclose(unit(x), expected.relu(), atol=1e-5)


def test_a_unit_convolves_the_padded_input_without_bias() -> None:
    torch.manual_seed(0)
    unit = i3d.Unit(2, 3, (3, 3, 3), stride=(2, 2, 2)).eval()
    x = torch.randn(1, 2, 5, 8, 7)
    expected = F.conv3d(same_padding(x, (3, 3, 3), (2, 2, 2)), unit.conv3d.weight, stride=2) / math.sqrt(1 + 1e-3)
    assert torch.allclose(unit(x), expected.relu(), atol=1e-5)


def test_pooling_never_prefers_the_padding_to_features_because_they_are_not_negative() -> None:
    pool = i3d.Pool((3, 3, 3), (2, 2, 2))
    x = torch.rand(1, 2, 3, 5, 5)
    expected = F.max_pool3d(x, 3, 2, padding=1)
    assert torch.equal(pool(x), expected)


def test_an_inception_block_is_four_branches_side_by_side() -> None:
    block = i3d.Mixed(4, (2, 3, 5, 2, 3, 1), momentum=0.01).eval()
    x = torch.rand(1, 4, 3, 5, 5)
    output = block(x)
    assert output.shape == (1, 2 + 5 + 3 + 1, 3, 5, 5)
    assert torch.equal(output[:, :2], block.b0(x)) and torch.equal(output[:, -1:], block.b3b(block.b3a(x)))


def test_from_features_at_an_end_point_the_rest_is_what_it_is_from_the_clip() -> None:
    torch.manual_seed(0)
    network = i3d.I3D(i3d.Config(width=0.1)).eval()
    with torch.no_grad():
        whole = network(torch.randn(1, 3, 9, 33, 41), i3d.ENDPOINTS)
        for number, name in enumerate(i3d.ENDPOINTS[:-1]):
            rest = network(whole[name], i3d.ENDPOINTS[number + 1 :], after=name)
            assert list(rest) == list(i3d.ENDPOINTS[number + 1 :])
            assert all(torch.equal(features, whole[key]) for key, features in rest.items())


# Public weights

PUBLISHED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32), "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64), "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64), "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128), "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""Channels of each block: input; 1x1; 1x1 and 3x3; 1x1 and 3x3; 1x1 after pooling (Szegedy et al. 2015, table 1)."""
QUARTER = 0.25
"""Width at which every published number of channels divides."""


def public(inputs: int) -> dict[str, Tensor]:
    """A checkpoint of the whole network, a quarter as wide, as the port publishes it.

    It was saved by a PyTorch without ``num_batches_tracked`` and ends with the classifier of Kinetics' 400 actions.
    """
    random = torch.Generator().manual_seed(inputs)
    shapes = {
        "Conv3d_1a_7x7": (64, inputs * 4, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (192, 64, 3),
    }  # fmt: skip
    for block, (given, *outputs) in PUBLISHED.items():
        sources = (given, given, outputs[1], given, outputs[3], given)
        for unit, output, source in zip(("b0", "b1a", "b1b", "b2a", "b2b", "b3b"), outputs, sources, strict=True):
            shapes[f"{block}.{unit}"] = (output, source, 3 if unit in ("b1b", "b2b") else 1)
    weights = {}
    for unit, (output, source, kernel) in shapes.items():
        weight = torch.randn(output // 4, source // 4, kernel, kernel, kernel, generator=random)
        weights[f"{unit}.conv3d.weight"] = weight * (2 / weight[0].numel()) ** 0.5
        for part, least in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
            weights[f"{unit}.bn.{part}"] = torch.rand(output // 4, generator=random) + least
    weights["logits.conv3d.weight"] = torch.randn(400, 1024 // 4, 1, 1, 1, generator=random) / 16
    return weights | {"logits.conv3d.bias": torch.randn(400, generator=random)}


def reference(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The published architecture, computed straight from a checkpoint: features at each end point, and logits."""

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.conv3d.weight"]
        x = F.conv3d(same_padding(x, (weight.shape[2],) * 3, (stride,) * 3), weight, stride=stride)
        scale, shift, mean, variance = (
            weights[f"{name}.bn.{part}"].view(-1, 1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - mean) / (variance + 1e-3).sqrt() * scale + shift).relu()

    def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        return F.max_pool3d(same_padding(x, kernel, stride), kernel, stride)

    def mixed(name: str, x: Tensor) -> Tensor:
        three, five = unit(f"{name}.b1b", unit(f"{name}.b1a", x)), unit(f"{name}.b2b", unit(f"{name}.b2a", x))
        pooled = unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([unit(f"{name}.b0", x), three, five, pooled], dim=1)

    found = {}
    for name in i3d.ENDPOINTS:
        match name.split("_"):
            case ["Mixed", _]:
                x = mixed(name, x)
            case ["Conv3d", which, _]:
                x = unit(name, x, stride=2 if which == "1a" else 1)
            case [_, "2a" | "3a", _]:
                x = pool(x, (1, 3, 3), (1, 2, 2))
            case [_, "4a", _]:
                x = pool(x, (3, 3, 3), (2, 2, 2))
            case [_, "5a", _]:
                x = pool(x, (2, 2, 2), (2, 2, 2))
        found[name] = x
    return found | {"logits": logits(weights, x)}


def logits(weights: dict[str, Tensor], features: Tensor) -> Tensor:
    """The port's classifier behind Mixed_5c: mean over 2 x 7 x 7, a 1 x 1 x 1 convolution with bias."""
    pooled = F.avg_pool3d(features, (2, 7, 7), stride=1)
    return F.conv3d(pooled, weights["logits.conv3d.weight"], weights["logits.conv3d.bias"])


@pytest.mark.parametrize(("inputs", "file"), [(3, "rgb_imagenet.pt"), (2, "flow_imagenet.pt")])
@pytest.mark.parametrize("size", [(16, 224, 224), (13, 201, 213)], ids=["published", "odd"])
def test_a_public_checkpoint_gives_the_published_architecture_s_output(
    tmp_path: Path, inputs: int, file: str, size: tuple[int, int, int]
) -> None:
    torch.save(public(inputs), tmp_path / file)
    weights = torch.load(tmp_path / file, weights_only=True)
    network = i3d.I3D(i3d.Config(inputs=inputs, width=QUARTER))
    load_encoder(network, weights, where=file)
    clip = torch.randn(1, inputs, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.eval()(clip, i3d.ENDPOINTS)
        expected = reference(weights, clip)
    assert list(found) == list(i3d.ENDPOINTS)
    found["logits"] = logits(weights, found["Mixed_5c"])
    assert expected["logits"].shape == (1, 400, 1, 1, 1) and expected["logits"].std() > 0.1
    for name, features in found.items():
        assert features.shape == expected[name].shape
        assert (features - expected[name]).abs().max() < 1e-5 * expected[name].abs().max(), name


def test_a_public_checkpoint_has_the_keys_of_the_whole_network() -> None:
    own, published = on_meta(i3d.Config(width=QUARTER)).state_dict(), public(3)
    assert own.keys() - published.keys() == {key for key in own if key.endswith("num_batches_tracked")}
    assert published.keys() - own.keys() == {"logits.conv3d.weight", "logits.conv3d.bias"}


def test_a_public_checkpoint_loads_into_ssa2d_s_encoder_which_ends_at_mixed_5b() -> None:
    weights = public(3)
    network = i3d.I3D(i3d.Config(width=QUARTER, last=ssa2d.paper.encoder.last, strides=ssa2d.paper.encoder.strides))
    load_encoder(network, weights, where="rgb_imagenet.pt")
    loaded = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())


def test_a_flow_checkpoint_is_refused_by_an_rgb_encoder_with_the_key_that_differs() -> None:
    with pytest.raises(ValueError, match=r"other shapes \['Conv3d_1a_7x7.conv3d.weight'\]"):
        load_encoder(i3d.I3D(i3d.Config(width=QUARTER)), public(2), where="flow_imagenet.pt")
