"""Li et al. 2017, "Tracking by Natural Language Specification": a baseline of Gavrilyuk et al. 2018, tables 1 and 2.

Of its networks the one that finds the target in a frame, "the lingual specification model" (section 5.2): it is like
that of Hu et al. 2016 but for "a dynamic convolutional layer to allow for dynamic adaptation of visual filters based on
the input sentence" (section 1). One fully connected layer makes a 1 x 1 filter of the LSTM's state, and the filter is
convolved with the visual features and the spatial coordinates. VGG16, the LSTM, the deconvolution and what is decided
for both baselines: ``models/parts/vgg.py``.

Gavrilyuk et al. change two things of it, tanh and L2-normalisation (section 3.3). So neither is here: the filter's
activation is the sigmoid and features are as VGG16 gives them, as in Li's code (QUVA-Lab/lang-tracker). From there too:
a state of 1,000, batches of 10 by Adam at 1e-4, 25,000 steps, all pixels counting the same. Adam's weight decay is
decoupled from the gradient here; the code adds it.

Axes: B batch, h, w a feature map, C channels.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from models.base import Labels
from models.parts import resnet, text, vgg
from models.parts.network import Training
from models.parts.text import COORDINATES, dynamic_convolution, with_coordinates


@dataclass(frozen=True)
class Config(vgg.SegmenterConfig):
    """Sizes of the network and how it is trained."""

    # Channels of a 1 x 1 convolution behind the encoder, in the place of VGG16's last layer. A residual network ends in
    # a ReLU: under filters of sigmoids its features alone could give no negative response.
    projection: int | None = None


paper = Config(
    training=Training(
        steps=25_000,
        batch=10,
        learning_rates={"encoder": 1e-4, "rest": 1e-4},
        optimiser="adam",
        schedule="step:25000:0.1",  # the rate is fixed: the step comes behind the last
    )
)
small = Config(
    encoder=resnet.SMALL,  # no small VGG is pretrained (stage `pretrain`)
    text_encoder=text.Config(kind="lstm", channels=128),
    projection=128,
    # An actor is a small part of a frame; in so few steps its pixels must count for more.
    background_weight=1 / 3,
    height=96,
    crop=(96, 192),  # 16:9 fits
    training=Training(
        steps=400, batch=8, learning_rates={"encoder": 1e-3, "rest": 3e-3}, optimiser="adam", schedule="cosine"
    ),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """``config`` as it is, for ``rgb``. Raises ``ValueError`` for other inputs."""
    vgg.check_inputs(inputs, method="li2017")
    return config


def build(config: Config, labels: Labels) -> vgg.Segmenter:
    """The network of ``config``. It asks for no class, so it is the same for all ``labels``."""
    del labels
    return vgg.Segmenter(config, head=DynamicFilter(config))


class DynamicFilter(nn.Module):
    """The sentence makes the filter under which a position's features are the response."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config.projection or config.encoder.channels
        self.projection = nn.Conv2d(config.encoder.channels, channels, 1) if config.projection else nn.Identity()
        self.filter = nn.Linear(config.text_encoder.outputs, channels + COORDINATES)

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Visual features (B, C, h, w) and text features (B, C) to a response map (B, 1, h, w)."""
        return dynamic_convolution(with_coordinates(self.projection(features)), self.filter(sentence).sigmoid())
