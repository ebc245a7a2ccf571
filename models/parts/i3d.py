"""I3D, the inflated Inception network (Carreira and Zisserman 2017), with named end points and adjustable strides.

Keys are those of the common PyTorch port of the public checkpoints (Conv3d_1a_7x7.conv3d.weight, Mixed_3b.b1a.bn.bias),
so that rgb_imagenet.pt and flow_imagenet.pt load by name. Padding is TensorFlow's `same`, computed from the input's
size; batch norm has epsilon 1e-3.
Axes: B batch, C channels, T frames, H height, W width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts.network import Encoder

Triple = tuple[int, int, int]

# Channels of the Inception blocks: 1x1; 1x1 and 3x3; 1x1 and 3x3; 1x1 after pooling.
MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}

POOLS: dict[str, tuple[Triple, Triple]] = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}

ENDPOINTS = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b", "Mixed_3c",
    "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2", "Mixed_5b",
    "Mixed_5c",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Sizes of the encoder. ``width`` scales every channel count; ``last`` is the deepest end point that is built."""

    inputs: int = 3  # 3 for RGB, 2 for flow
    width: float = 1.0
    last: str = "Mixed_5c"
    strides: dict[str, Triple] = field(default_factory=dict)  # of pools (1, 1, 1: none) or Conv3d_1a_7x7, if others
    momentum: float = 0.01  # of batch norm; a training of a few hundred steps needs a faster one to know its statistics

    def scaled(self, channels: int) -> int:
        """``channels`` at this width, at least 4."""
        return max(4, round(channels * self.width))

    def channels(self, endpoint: str) -> int:
        """Channels at ``endpoint``."""
        if endpoint in MIXED:
            b0, _, b1, _, b2, b3 = MIXED[endpoint]
            return sum(self.scaled(channels) for channels in (b0, b1, b2, b3))
        return self.scaled({"Conv3d_1a_7x7": 64, "Conv3d_2b_1x1": 64, "Conv3d_2c_3x3": 192}[endpoint])


DENSE = Config(last="Mixed_5b", strides={"MaxPool3d_5a_2x2": (1, 1, 1)})
"""Without the pool before Mixed_5b and without Mixed_5c: the deepest features are at (T/4, H/16, W/16)."""
SMALL = replace(DENSE, width=0.25, momentum=0.1)
"""The encoder that stage `pretrain` learns."""


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Triple, *, stride: Triple = (1, 1, 1), momentum: float = 0.01
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=momentum)
        nn.init.kaiming_normal_(self.conv3d.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv3d
        before, after = same_padding(x.shape[2:], conv.kernel_size, conv.stride)
        if before != after:  # else the convolution pads by itself, which saves a copy of its input
            x, before = pad(x, before, after), [0, 0, 0]
        return F.relu(self.bn(F.conv3d(x, conv.weight, conv.bias, conv.stride, before)), inplace=True)


class Pool(nn.Module):
    """Max pooling with `same` padding. What pads is never the maximum: zeros would not be either, inputs are ReLU's."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        before, _ = same_padding(x.shape[2:], self.kernel, self.stride)
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)  # ceil: the odd one at the end


class Mixed(nn.Module):
    """An Inception block: four branches, concatenated."""

    def __init__(self, inputs: int, channels: tuple[int, ...], *, momentum: float) -> None:
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        unit = partial(Unit, momentum=momentum)
        self.b0 = unit(inputs, channels[0], one)
        self.b1a, self.b1b = unit(inputs, channels[1], one), unit(channels[1], channels[2], three)
        self.b2a, self.b2b = unit(inputs, channels[3], one), unit(channels[3], channels[4], three)
        self.b3a, self.b3b = Pool(three, one), unit(inputs, channels[5], one)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class I3D(Encoder):
    """(B, inputs, T, H, W) -> features at the end points asked for."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        channels = config.inputs
        last = ENDPOINTS.index(config.last)
        self.endpoints = ENDPOINTS[: last + 1]
        self.beyond = (*Encoder.beyond, *(f"{name}." for name in ENDPOINTS[last + 1 :]))
        for name in self.endpoints:
            if name in POOLS:
                kernel, stride = POOLS[name]
                stride = config.strides.get(name, stride)
                self.add_module(name, nn.Identity() if stride == (1, 1, 1) else Pool(kernel, stride))
                continue
            if name in MIXED:
                widths = tuple(config.scaled(c) for c in MIXED[name])
                self.add_module(name, Mixed(channels, widths, momentum=config.momentum))
            else:
                kernel = {"Conv3d_1a_7x7": (7, 7, 7), "Conv3d_2b_1x1": (1, 1, 1), "Conv3d_2c_3x3": (3, 3, 3)}[name]
                stride = config.strides.get(name, (2, 2, 2) if name == "Conv3d_1a_7x7" else (1, 1, 1))
                unit = Unit(channels, config.channels(name), kernel, stride=stride, momentum=config.momentum)
                self.add_module(name, unit)
            channels = config.channels(name)

    def forward(self, x: Tensor, wanted: tuple[str, ...], *, after: str | None = None) -> dict[str, Tensor]:
        """Features at ``wanted`` end points; nothing deeper than the deepest of them is computed.

        ``after``: ``x`` is not a clip but features at this end point, from which the rest is computed.
        """
        features: dict[str, Tensor] = {}
        first = 0 if after is None else self.endpoints.index(after) + 1
        for name in self.endpoints[first:]:
            x = self.get_submodule(name)(x)
            if name in wanted:
                features[name] = x
                if len(features) == len(wanted):
                    break
        return features


def same_padding(shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after T, H, W, so that the output has ceil(input / stride) steps on each."""
    total = [
        max((math.ceil(length / s) - 1) * s + k - length, 0) for length, k, s in zip(shape, kernel, stride, strict=True)
    ]
    return [count // 2 for count in total], [count - count // 2 for count in total]


def pad(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """(B, C, T, H, W) with zeros before and after on T, H, W: a copy."""
    return F.pad(x, [side for pair in zip(before[::-1], after[::-1], strict=True) for side in pair])
