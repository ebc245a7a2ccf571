"""I3D: the published sizes and end points, the keys of the public PyTorch port, and TensorFlow's `same` padding."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import i3d, ssa2d
from models.base import load_encoder, parameter_count


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
    x = torch.randn(1, 1, *size)
    for kernel, stride in itertools.product([(7, 7, 7), (1, 3, 3), (2, 2, 2)], [(2, 2, 2), (1, 2, 2), (1, 1, 1)]):
        padded = i3d.pad_same(x, kernel, stride)
        assert torch.equal(padded, same_padding(x, kernel, stride))
        output = F.max_pool3d(padded, kernel, stride)
        assert output.shape[2:] == tuple(math.ceil(n / s) for n, s in zip(size, stride, strict=True))


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


# Public weights


def public(config: i3d.Config) -> dict[str, Tensor]:
    """A checkpoint of the whole network as the port publishes it: to Mixed_5c, with its classifier."""
    state = dict(i3d.I3D(config).state_dict())
    return state | {"logits.conv3d.weight": torch.zeros(400, 4, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}


def test_a_public_checkpoint_loads_into_the_whole_network() -> None:
    config = i3d.Config(width=0.1)
    torch.manual_seed(1)
    weights = public(config)
    network = i3d.I3D(config)
    load_encoder(network, weights, where="rgb_imagenet.pt")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_a_public_checkpoint_loads_into_ssa2d_s_encoder_which_ends_at_mixed_5b() -> None:
    torch.manual_seed(1)
    weights = public(i3d.Config(width=0.1))
    network = i3d.I3D(i3d.Config(width=0.1, last=ssa2d.paper.encoder.last, strides=ssa2d.paper.encoder.strides))
    load_encoder(network, weights, where="rgb_imagenet.pt")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_a_flow_checkpoint_is_refused_by_an_rgb_encoder_with_the_key_that_differs() -> None:
    with pytest.raises(ValueError, match=r"other shapes \['Conv3d_1a_7x7.conv3d.weight'\]"):
        load_encoder(i3d.I3D(i3d.Config(width=0.1)), public(i3d.Config(inputs=2, width=0.1)), where="flow_imagenet.pt")
