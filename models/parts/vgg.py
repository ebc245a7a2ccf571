"""VGG16 as a fully convolutional network, and the segmenter of single frames that the baselines on it share.

Simonyan and Zisserman 2015, configuration D, with the fully connected layers fc6 to fc8 as convolutions (Long et al.
2015). Gavrilyuk et al. 2018 compare with two methods "for the related task of image segmentation from a sentence"
(section 5.2): Hu et al. 2016 and Li et al. 2017 (``models/hu2016.py``, ``models/li2017.py``). In both, VGG16 encodes an
RGB frame and an LSTM the sentence, both give a response map, and one deconvolution upsamples it (section 3.3). They
differ in the map alone: a method is a head. Where section 5.2 says nothing, their released codes are followed
(ronghanghu/text_objseg and QUVA-Lab/lang-tracker, both of 512 x 512 pixels):

- Both use fc8's 1,000 outputs as visual features, keep VGG16's convolutions fixed and fine-tune fc6 to fc8, without
  dropout. fc6 (7 x 7) is padded, so a map is exactly 1/32 of its frame.
- The deconvolution is 64 x 64 with stride 32 and no bias, and starts as bilinear interpolation.

What neither the paper nor the codes settle for A2D Sentences, decided here:

- Words are the fixed word vectors that Gavrilyuk's own LSTM gets (section 5.1); the codes learn an embedding. Nothing
  is trained on ReferIt first: "fine-tuned" in table 1 means both data sets, here it is A2D Sentences alone.
- Both codes train at 1/32 first, then at full resolution. Here there is the second step alone, with its schedule.
- Frames are padded as in ``models/sentence.py``, below and on the right, and padding counts in no loss; Hu's code
  counts it as background.
- Layers without public weights start as PyTorch's own.

Axes: B batch, T frames (1), H, W input; h, w a feature map; L words; C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE
from models.base import SINGLE_FRAME, Window
from models.parts import resnet, text
from models.parts.network import Encoder, Training, split_parameters
from models.parts.text import TextBatch, logistic_loss


@dataclass(frozen=True)
class Config:
    """Sizes of a VGG network."""

    # Channels of the 3 x 3 convolutions, by the blocks that a maximum over 2 x 2 ends
    blocks: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
    connected: tuple[int, int, int] = (4096, 4096, 1000)  # outputs of fc6, fc7 and fc8

    @property
    def channels(self) -> int:
        """Channels of the output, fc8's."""
        return self.connected[-1]

    @property
    def stride(self) -> int:
        """Pixels of the input on each side of one position of the output."""
        return int(2 ** len(self.blocks))


VGG16 = Config()
SMALL = Config(blocks=((8,), (16,), (24,), (32,), (32,)), connected=(64, 64, 32))
"""Of the same stride. No stage pretrains it: ``small`` methods have ``resnet.SMALL`` in its place."""


class VGG(Encoder):
    """(B, 3, H, W) -> (B, C, H / 32, W / 32), with ReLU behind all layers but the last.

    What is left over of H and W beyond a multiple of 32 is cut off. Keys are torchvision's (features.0, ...,
    features.28; classifier.0, classifier.3 and classifier.6 for fc6 to fc8).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for block in config.blocks:
            for channels in block:
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        fc6, fc7, fc8 = config.connected
        self.classifier = nn.Sequential()
        self.classifier.add_module("0", nn.Conv2d(inputs, fc6, 7, padding=3))
        self.classifier.add_module("1", nn.ReLU(inplace=True))
        self.classifier.add_module("3", nn.Conv2d(fc6, fc7, 1))  # torchvision's 2 and 5 are dropouts
        self.classifier.add_module("4", nn.ReLU(inplace=True))
        self.classifier.add_module("6", nn.Conv2d(fc7, fc8, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (B, C, H/32, W/32)
        logits: Tensor = self.classifier(features)
        return logits

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's matrices of fc6 to fc8 (outputs, inputs) as kernels; all else stays as it is.

        Weights must be of ``VGG16_Weights.IMAGENET1K_V1``, for pictures as ``resnet.picture`` makes them: those of the
        original release, whose keys other ports share, see blue, green, red from 0 to 255.
        """
        kernels = {key: value for key, value in self.state_dict().items() if key.startswith("classifier.")}
        return {
            key: value.view_as(kernels[key])
            if key in kernels and value.dim() == 2 and value.shape == kernels[key].flatten(1).shape
            else value
            for key, value in weights.items()
        }


@dataclass(frozen=True)
class SegmenterConfig:
    """What the configurations of both methods have in common."""

    training: Training
    encoder: Config | resnet.Config = VGG16
    text_encoder: text.Config = text.LSTM
    background_weight: float = 1.0  # of pixels outside the actor in the loss
    height: int | None = 288
    crop: tuple[int, int] | None = (512, 512)
    window: Window = SINGLE_FRAME
    flow_encoding: str = "clipped"  # of the flow that the loader may give and nobody looks at


def check_inputs(inputs: str, *, method: str) -> None:
    """Raises ``ValueError`` for other inputs than ``rgb`` (section 5.2: "an RGB frame with a sentence")."""
    if inputs != "rgb":
        raise ValueError(f"{method}: inputs `{inputs}`: it sees single RGB frames and no flow; write `rgb`")


class Segmenter(nn.Module):
    """A frame and a sentence to one response map, positive on the actor that the sentence means.

    ``head`` makes a response map (B, 1, h, w) of visual features (B, C, h, w) and text features (B, C). VGG16's
    convolutions are fixed; a residual network is fine-tuned whole.
    """

    def __init__(self, config: SegmenterConfig, *, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.encoder: VGG | resnet.ResNet
        if isinstance(config.encoder, Config):
            self.encoder = VGG(config.encoder)
            self.encoder.features.requires_grad_(False)
        else:
            self.encoder = resnet.ResNet(config.encoder)
        self.text = text.TextEncoder(config.text_encoder)
        self.head = head
        stride = config.encoder.stride
        self.upsample = nn.ConvTranspose2d(1, 1, 2 * stride, stride=stride, padding=stride // 2, bias=False)
        triangle = 1 - (torch.arange(2 * stride) + 0.5 - stride).abs() / stride
        with torch.no_grad():
            self.upsample.weight.copy_(torch.outer(triangle, triangle))

    def forward(self, batch: TextBatch) -> Tensor:
        """Response map (B, 1, H, W) of the padded frames."""
        frames = self._padded(batch["frames"], value=0)[:, 0]  # (B, 1, H, W, 3) to (B, H, W, 3)
        features = self.encoder(resnet.picture(frames))  # (B, C, h, w)
        response: Tensor = self.upsample(self.head(features, self.text(batch["words"], batch["lengths"])))
        return response

    def loss(self, batch: TextBatch) -> dict[str, Tensor]:
        """The logistic loss at full resolution, over labelled pixels."""
        mask = self._padded(batch["mask"][..., None], value=IGNORE)[:, 0, ..., 0]  # (B, 1, H, W, 1) to (B, H, W)
        return {"loss": logistic_loss(self(batch), mask, background=self.config.background_weight)}

    @torch.no_grad()
    def response(self, batch: TextBatch) -> Tensor:
        """Response map (B, H, W) of the frames.

        Of a single window and B sentences, those about it: it is encoded once.
        """
        height, width = batch["frames"].shape[2:4]
        response: Tensor = self(batch)[:, 0, :height, :width]
        return response

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What of the encoder learns, and what is learned from nothing."""
        encoder, rest = split_parameters(self, [self.encoder])
        return {"encoder": encoder, "rest": rest}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """The encoder, which starts from pretrained weights: their name -> module."""
        return {"vgg16" if isinstance(self.encoder, VGG) else "rgb2d": self.encoder}

    def _padded(self, x: Tensor, *, value: int) -> Tensor:
        """(B, T, H, W, C) with ``value`` below and on the right: at least `crop`, and multiples of the stride."""
        stride = self.config.encoder.stride
        sizes = zip(x.shape[2:4], self.config.crop or (0, 0), strict=True)
        below, right = (-(-max(length, least) // stride) * stride - length for length, least in sizes)
        return F.pad(x, (0, 0, 0, right, 0, below), value=value)
