"""Hu et al. 2016, "Segmentation from Natural Language Expressions": a baseline of Gavrilyuk et al. 2018, tables 1, 2.

They rely on an LSTM "to encode an input sentence into a vector representation, before a fully convolutional network
extracts a spatial feature map from an image and outputs an upsampled response map" (Gavrilyuk et al., section 1): at
each position stand its visual features, the LSTM's state and the spatial coordinates side by side, and two 1 x 1
convolutions make a response of them. VGG16, the LSTM, the deconvolution and what is decided for both baselines:
``models/parts/vgg.py``.

Gavrilyuk et al. give no sizes. Those of Hu's code (ronghanghu/text_objseg) are taken: a state of 1,000; visual features
and state L2-normalised, coordinates not; 500 hidden channels with ReLU; batches of 10 by SGD at 0.01 with momentum 0.9,
a tenth every 6,000 of 18,000 steps; a pixel of background counts a third. The code divides the loss by the number of
pixels, ``logistic_loss`` by their weights.

Axes: B batch, h, w a feature map, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Labels
from models.parts import resnet, text, vgg
from models.parts.network import Training
from models.parts.text import COORDINATES, with_coordinates


@dataclass(frozen=True)
class Config(vgg.SegmenterConfig):
    """Sizes of the network and how it is trained."""

    hidden: int = 500  # channels between the two 1 x 1 convolutions


paper = Config(
    background_weight=1 / 3,
    training=Training(
        steps=18_000,
        batch=10,
        learning_rates={"encoder": 1e-2, "rest": 1e-2},
        optimiser="sgd",
        schedule="step:6000,12000:0.1",
    ),
)
small = Config(
    encoder=resnet.SMALL,  # no small VGG is pretrained (stage `pretrain`)
    text_encoder=text.Config(kind="lstm", channels=128),
    hidden=128,
    background_weight=1 / 3,
    height=96,
    crop=(96, 192),  # 16:9 fits
    training=Training(
        steps=400, batch=8, learning_rates={"encoder": 1e-3, "rest": 3e-3}, optimiser="adam", schedule="cosine"
    ),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """``config`` as it is, for ``rgb``. Raises ``ValueError`` for other inputs."""
    vgg.check_inputs(inputs, method="hu2016")
    return config


def build(config: Config, labels: Labels) -> vgg.Segmenter:
    """The network of ``config``. It asks for no class, so it is the same for all ``labels``."""
    del labels
    return vgg.Segmenter(config, head=Classifier(config))


class Classifier(nn.Module):
    """Each position, with the sentence beside it, is on the actor or not."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        inputs = config.encoder.channels + config.text_encoder.outputs + COORDINATES
        self.hidden = nn.Conv2d(inputs, config.hidden, 1)
        self.output = nn.Conv2d(config.hidden, 1, 1)

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Visual features (B, C, h, w) and text features (B, C) to a response map (B, 1, h, w)."""
        tiled = F.normalize(sentence, dim=1)[:, :, None, None].expand(-1, -1, *features.shape[2:])  # (B, C, h, w)
        both = torch.cat([tiled, F.normalize(features, dim=1).expand(len(sentence), -1, -1, -1)], dim=1)
        response: Tensor = self.output(self.hidden(with_coordinates(both)).relu())
        return response
