"""ResNet: torchvision's keys and counts, the dilated stages of DeepLab, and the loading of public weights."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from mmdet.models.backbones import resnet as mmdet_resnet
from torch import Tensor, nn

from models.parts import resnet
from models.parts.network import channels_last, load_encoder, parameter_count
from models.parts.resnet import picture

TINY = resnet.Config(layers=(1, 2, 1, 1), width=4, bottleneck=True)


def on_meta(config: resnet.Config) -> resnet.ResNet:
    """The network without its weights: for keys, counts and shapes."""
    with torch.device("meta"):
        return resnet.ResNet(config)


def test_resnet_101_has_torchvision_s_parameters_without_the_classifier() -> None:
    # torchvision's resnet101 has 44,549,160 with fc (2048 x 1000 + 1000).
    assert parameter_count(on_meta(resnet.RESNET101)) == 42_500_160 == 44_549_160 - 2_049_000


def test_the_small_network_s_size_is_known() -> None:
    assert parameter_count(on_meta(resnet.SMALL)) == 693_432


def test_keys_and_shapes_are_torchvision_s() -> None:
    state = on_meta(resnet.RESNET101).state_dict()
    expected = {
        "conv1.weight": (64, 3, 7, 7), "bn1.running_var": (64,), "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.2.conv3.weight": (256, 64, 1, 1), "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.22.bn3.bias": (1024,),
        "layer4.0.downsample.1.num_batches_tracked": (), "layer4.2.conv1.weight": (512, 2048, 1, 1),
    }  # fmt: skip
    assert {key: tuple(state[key].shape) for key in expected} == expected
    # torchvision's resnet101 has 626 entries, two of them fc's.
    assert len(state) == 624 and not any(key.startswith("fc") for key in state)


@pytest.mark.parametrize(
    ("stride", "dilations"), [(8, (1, 1, 2, 4)), (16, (1, 1, 1, 2)), (32, (1, 1, 1, 1))], ids=["1/8", "1/16", "1/32"]
)
def test_stages_past_the_stride_are_dilated_instead(stride: int, dilations: tuple[int, ...]) -> None:
    network = resnet.ResNet(resnet.Config(layers=(1, 2, 2, 2), width=4, stride=stride))
    for number, dilation in enumerate(dilations, start=1):
        blocks = network.get_submodule(f"layer{number}")
        assert [block.conv2.dilation for block in blocks] == [(dilation, dilation)] * len(blocks)
    output = network(torch.zeros(1, 3, 64, 96))
    assert output.shape == (1, 4 * 8 * 4, 64 // stride, 96 // stride)


@pytest.mark.parametrize(("height", "width"), [(101, 77), (33, 64), (320, 427)])
def test_odd_sizes_give_the_next_whole_eighth(height: int, width: int) -> None:
    output = on_meta(resnet.RESNET101)(torch.zeros(2, 3, height, width, device="meta"))
    assert output.shape == (2, 2048, -(-height // 8), -(-width // 8))
    assert resnet.RESNET101.channels == 2048 and resnet.SMALL.channels == 192


def test_a_bottleneck_is_two_reductions_and_a_shortcut() -> None:
    block = resnet.Bottleneck(8, 2, stride=1, dilation=1).eval()
    assert block.downsample is None
    for name in ("conv1", "conv2", "conv3"):
        nn.init.zeros_(getattr(block, name).weight)
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(block(x), x.relu())


# Public weights


def public(config: resnet.Config, **more: Tensor) -> dict[str, Tensor]:
    """A checkpoint as torchvision publishes it: with a classifier."""
    torch.manual_seed(1)
    state = dict(resnet.ResNet(config).state_dict())
    return state | {"fc.weight": torch.zeros(1000, config.channels), "fc.bias": torch.zeros(1000)} | more


def test_a_public_checkpoint_loads_by_name_and_its_classifier_is_left_out() -> None:
    weights = public(TINY)
    torch.manual_seed(2)
    network = resnet.ResNet(TINY)
    load_encoder(network, weights, where="resnet101.pth")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def detector(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As mmdet saves a detector: the ResNet is its backbone."""
    more = {"neck.lateral_convs.0.conv.weight": torch.zeros(1), "rpn_head.rpn_conv.bias": torch.zeros(1)}
    return {f"backbone.{key}": value for key, value in weights.items()} | more


def deeplab_v2(weights: dict[str, Tensor], *, prefix: str = "Scale.") -> dict[str, Tensor]:
    """As the PyTorch port of DeepLab-v2 saves it: behind a prefix, with its classifier, for pictures as Caffe's."""
    heads = {f"{prefix}layer5.conv2d_list.{n}.weight": torch.zeros(21, 2048, 3, 3) for n in range(4)}
    return {f"{prefix}{key}": value for key, value in weights.items()} | heads


@pytest.mark.parametrize("prefix", ["Scale.", ""])
def test_deeplab_v2_s_checkpoint_loads_without_its_classifier(prefix: str) -> None:
    torch.manual_seed(1)
    weights = dict(resnet.ResNet(TINY).state_dict())
    network = resnet.ResNet(TINY)
    load_encoder(network, deeplab_v2(weights, prefix=prefix), where="MS_DeepLab_resnet.pth")
    state = network.state_dict()
    assert all(torch.equal(state[key], weights[key]) for key in weights.keys() - {"conv1.weight"})


def test_deeplab_v2_s_first_convolution_sees_our_pictures_as_caffe_showed_them() -> None:
    """Caffe's are blue, green, red from 0 to 255, less a mean that is within 1.1 of ImageNet's."""
    network = resnet.ResNet(TINY)
    first = torch.randn(4, 3, 7, 7)
    renamed = network.renamed({"Scale.conv1.weight": first})["conv1.weight"]
    image = torch.randint(0, 256, (1, 20, 24, 3), dtype=torch.uint8)
    caffe = image.permute(0, 3, 1, 2).flip(1).float() - torch.tensor((103.53, 116.28, 123.675)).view(1, 3, 1, 1)
    torch.testing.assert_close(
        nn.functional.conv2d(picture(image), renamed), nn.functional.conv2d(caffe, first), atol=0.05, rtol=1e-4
    )


def test_a_detector_of_mmdet_gives_its_backbone() -> None:
    torch.manual_seed(1)
    weights = dict(resnet.ResNet(TINY).state_dict())
    network = resnet.ResNet(TINY)
    load_encoder(network, detector(weights), where="mask_rcnn_r101.pth")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_the_real_backbone_of_mmdet_loads_and_gives_the_same_features() -> None:
    torch.manual_seed(1)
    theirs = mmdet_resnet.ResNet(
        101, base_channels=4, stem_channels=4, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), out_indices=(3,)
    )
    theirs.eval()
    ours = resnet.ResNet(resnet.Config(width=4)).eval()
    load_encoder(ours, {f"backbone.{k}": v for k, v in theirs.state_dict().items()}, where="r101.pth")
    x = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x)[0])


def test_renaming_twice_or_torchvision_s_keys_changes_nothing() -> None:
    network, weights = resnet.ResNet(TINY), public(TINY)
    assert network.renamed(weights) is weights
    for other in (detector(weights), deeplab_v2(weights)):
        once = network.renamed(other)
        assert network.renamed(once) is once


@pytest.mark.parametrize("saved", [detector, deeplab_v2])
def test_a_renamed_file_that_does_not_fit_is_an_error_that_lists_the_keys(saved: Callable[..., Any]) -> None:
    weights = saved({k: v for k, v in public(TINY).items() if k != "layer2.1.bn1.bias"} | {"layer9.w": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"missing keys \['layer2.1.bn1.bias'\] \(1\), unexpected keys \['layer9.w'\]"):
        load_encoder(resnet.ResNet(TINY), weights, where="mine.pth")


def test_an_old_checkpoint_without_batch_counters_loads() -> None:
    weights = {key: value for key, value in public(TINY).items() if not key.endswith("num_batches_tracked")}
    load_encoder(resnet.ResNet(TINY), weights, where="resnet101.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {k: v for k, v in w.items() if k != "layer2.1.conv1.weight"},
            r"missing keys \['layer2.1.conv1.weight'\] \(1\)",
        ),
        (lambda w: w | {"layer9.conv.weight": torch.zeros(1)}, r"unexpected keys \['layer9.conv.weight'\] \(1\)"),
        (lambda w: w | {"conv1.weight": torch.zeros(4, 4, 7, 7)}, r"other shapes \['conv1.weight'\] \(1\)"),
        (lambda w: {f"module.{k}": v for k, v in w.items()}, "module."),
    ],
    ids=["missing", "unexpected", "shape", "prefix"],
)
def test_a_file_that_does_not_fit_is_an_error_that_lists_the_keys(change: object, message: str) -> None:
    assert callable(change)
    weights: Mapping[str, Tensor] = change(public(TINY))
    with pytest.raises(ValueError, match=f"mine.pth does not fit this encoder.*{message}"):
        load_encoder(resnet.ResNet(TINY), dict(weights), where="mine.pth")


def test_a_file_that_does_not_fit_changes_nothing() -> None:
    network = resnet.ResNet(TINY)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError):
        load_encoder(network, public(TINY, extra=torch.zeros(1)), where="mine.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_channels_last_changes_the_layout_and_no_value() -> None:
    network = resnet.ResNet(TINY).eval()
    x = torch.randn(1, 3, 32, 40)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = network(x)
    channels_last(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(network(x), expected, atol=1e-5)
