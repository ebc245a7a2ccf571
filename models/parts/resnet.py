"""Residual networks with dilated last stages (He et al. 2016; dilation as in DeepLab-v2, Chen et al. 2016).

Keys are torchvision's (conv1, bn1, layer1.0.conv1, ..., layer4.2.bn3), so that public checkpoints load by name; those
of mmdet and of DeepLab-v2's PyTorch port are renamed (``ResNet.renamed``).
Axes: B batch, C channels, H height, W width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.parts.network import Encoder

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, from 0 to 1: public weights expect pictures less the one, over the other."""


@dataclass(frozen=True)
class Config:
    """Sizes of one residual network. ``stride`` is input over output resolution: the stages past it are dilated."""

    layers: tuple[int, int, int, int] = (3, 4, 23, 3)  # ResNet-101
    width: int = 64  # channels of the first stage before expansion; doubles at each stage
    bottleneck: bool = True
    stride: int = 8  # Dang et al. 2018, section 3.2: 1/8 instead of 1/32

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.width * 8 * (4 if self.bottleneck else 1)


RESNET101 = Config()
SMALL = Config(layers=(1, 1, 1, 1), width=24, bottleneck=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the stride is on the 3x3, as in torchvision."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(Encoder):
    """(B, 3, H, W) -> (B, C, H / stride, W / stride)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(3, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        block: type[BasicBlock | Bottleneck] = Bottleneck if config.bottleneck else BasicBlock
        channels, reached, dilation = config.width, 4, 1
        for stage, blocks in enumerate(config.layers):
            stride = 1 if stage == 0 else 2
            if stride == 2 and reached == config.stride:
                stride, dilation = 1, dilation * 2
            reached *= stride
            width = config.width * 2**stage
            layer = []
            for index in range(blocks):
                layer.append(block(channels, width, stride=stride if index == 0 else 1, dilation=dilation))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, width, H/4, W/4)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A public checkpoint's weights under this network's keys; keys of no known kind stay as they are.

        - torchvision's: its own keys.
        - mmdet's: a detector's or a backbone's, of `style='pytorch'` (stride on the 3x3, as here). Of a detector only
          what begins with ``backbone.`` is taken.
        - DeepLab-v2's, whose PyTorch port (isht7/pytorch-deeplab-resnet, for FusionSeg too) has ``Scale.`` before each
          key or its classifier in ``layer5``, which is left out. It comes from Caffe and sees blue, green, red from 0
          to 255: its first convolution is turned to this network's pictures, to within a level of 255, where the means
          differ. Caffe's stride is on the 1x1: the first block of layer2 samples other pixels until it is fine-tuned.
        """
        if any(key.startswith("backbone.") for key in weights):
            return {key.removeprefix("backbone."): w for key, w in weights.items() if key.startswith("backbone.")}
        if not any(key.startswith(("Scale.", "layer5.")) for key in weights):
            return weights
        renamed = {key.removeprefix("Scale."): value for key, value in weights.items()}
        renamed = {key: value for key, value in renamed.items() if not key.startswith("layer5.")}
        if "conv1.weight" in renamed:
            first = renamed["conv1.weight"]  # (width, 3, 7, 7)
            renamed["conv1.weight"] = first.flip(1) * (255 * first.new_tensor(DEVIATION).view(1, 3, 1, 1))
        return renamed


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


def picture(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float, less ImageNet's mean and over its deviation."""
    x = image.permute(0, 3, 1, 2).float() / 255
    mean, deviation = (x.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)
