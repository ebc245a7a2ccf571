"""Segmentation of the actor that a sentence means (Gavrilyuk et al. 2018, "... Video Segmentation from a Sentence").

Section 3.1: a 1D convolution over word vectors gives the text features T. 3.2: I3D up to the block before its last max
pooling (Mixed_4f) encodes 16 frames; its features are averaged over time, L2-normalised over the channels, and spatial
coordinates are appended: V^32. 3.3: two blocks of a deconvolution (8 x 8, stride 4) and a 3 x 3 convolution make V^128
and V^512 of it; for each r a filter f^r = tanh(W^r T + b^r) (equation 1) is convolved with V^r (equation 2); the map at
r = 512 is the answer, positive on the actor. 3.4: the sum of logistic losses at all r (equations 3 to 5); of I3D only
the last block is fine-tuned; Adam, 0.001, a tenth every 5,000 of 15,000 iterations. 5.1: a second network for flow, and
the weighted average of both response maps, RGB counting twice.

r is the side of a map for the paper's input of 512 x 512 pixels; for others 32, 128 and 512 mean 1/16, 1/4 and 1/1.

What the paper leaves open, decided here:

- Widths of the decoder: 256 and 128, with padding 2 so that a deconvolution makes exactly four times the size, and no
  activation, as in later code of this lineage.
- Coordinates are appended and features normalised once, at V^32, which is what the deconvolutions work on.
- The fixed layers of I3D keep the statistics of their batch norms too; the last block's go on.
- The streams share nothing, the text encoder neither: they are two networks, trained side by side by one sum of losses.
- A mask at a lower resolution has the label at the centre of each cell, so it stays binary. What lies outside the frame
  is unlabelled and counts in no loss.
- Training flips frames at random, with `left` and `right` in the sentence, and changes nothing else: a crop could cut
  off who is meant, and sentences name colours.
- The norm of the gradient is limited (``models.parts.network.Training``).
- "Frames are padded to have the same size": smaller ones below and on the right, with black and no motion, to `crop`;
  others to multiples of 16. A frame of A2D (at most 16:9) is 288 pixels high where 512 x 512 holds it; what is wider
  is made smaller, in training and in test.
- The batch is 8; no size is given.

A sentence without a known word has T = 0, so its filters are tanh(b^r): the answer is the same for all such sentences.

Axes: B batch, T frames, H, W input; h, w = H/16, W/16; L words; C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE
from models.base import SINGLE_FRAME, Labels, Window
from models.parts import i3d, text
from models.parts.network import Training, split_parameters
from models.parts.text import COORDINATES, TextBatch, dynamic_convolution, logistic_loss, with_coordinates

CHANNELS = {"rgb": 3, "flow": 2}
FIXED = "Mixed_4e"
"""Deepest end point of I3D that is not fine-tuned."""
LAST = "Mixed_4f"
"""The inception block before the last max pooling: fine-tuned, its features are what the encoder gives."""
STRIDE = 16
"""Pixels of the input on each side of one position of the encoder's features."""
FULL = 512
"""The resolution whose response map is the answer."""
ENCODER = i3d.Config(last=LAST)
SIXTEEN_FRAMES = Window(before=8, after=7)
"""Around the frame to be segmented; of an even number one more before than after (the paper: "around")."""


@dataclass(frozen=True)
class Config:
    """Sizes of the network and how it is trained."""

    streams: tuple[str, ...] = ("rgb",)  # of rgb, flow
    encoder: i3d.Config = ENCODER  # of each stream
    text_encoder: text.Config = text.CONV  # of each stream
    decoder: tuple[int, int] = (256, 128)  # channels at r = 128 and r = 512
    loss_weights: dict[int, float] = field(default_factory=lambda: {32: 1.0, 128: 1.0, FULL: 1.0})  # w_r, equation 3
    fusion: dict[str, float] = field(default_factory=lambda: {"rgb": 2.0, "flow": 1.0})  # weights of response maps
    background_weight: float = 1.0  # of pixels outside the actor in the loss
    height: int | None = 288
    crop: tuple[int, int] | None = (512, 512)
    window: Window = SIXTEEN_FRAMES
    flow_encoding: str = "clipped"
    training: Training = field(
        default=Training(
            steps=15_000,
            batch=8,
            learning_rates={"encoder": 1e-3, "rest": 1e-3},
            optimiser="adam",
            schedule="step:5000,10000:0.1",
            weight_decay=0,
        )
    )


paper = Config()
small = Config(
    encoder=replace(i3d.SMALL, last=LAST),
    decoder=(64, 32),
    # An actor is a small part of a frame; in so few steps its pixels must count for more.
    background_weight=1 / 3,
    height=80,
    crop=(80, 144),  # 16:9 fits
    training=Training(
        steps=500,
        batch=8,
        learning_rates={"encoder": 1e-3, "rest": 3e-3},
        optimiser="adam",
        schedule="cosine",
        weight_decay=1e-4,
    ),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """The configuration for ``rgb``, ``flow`` or ``rgb+flow``."""
    return replace(config, streams=tuple(inputs.split("+")))


VARIANTS: dict[str, Callable[[Config], Config]] = {
    # Section 5.1
    "frames_1": lambda config: replace(config, window=SINGLE_FRAME),
    "frames_4": lambda config: replace(config, window=Window(before=2, after=1)),
    "frames_8": lambda config: replace(config, window=Window(before=4, after=3)),
    "lstm": lambda config: replace(config, text_encoder=text.LSTM),
    "bilstm": lambda config: replace(config, text_encoder=text.BILSTM),
    "one_resolution": lambda config: replace(config, loss_weights={FULL: 1.0}),
    # Section 5.3
    "fixed_vocabulary": lambda config: config,  # learns names in place of sentences (stages.core.datasets.vocabulary)
}
"""Name of a run's variant -> the configuration it makes of the plain one."""


def build(config: Config, labels: Labels) -> "Sentence":
    """The network of ``config``. It asks for no class, so it is the same for all ``labels``."""
    del labels
    return Sentence(config)


class Stream(nn.Module):
    """The whole network for one input (figure 2): a clip and a sentence to response maps."""

    def __init__(self, config: Config, *, inputs: int) -> None:
        super().__init__()
        self.encoder = i3d.I3D(replace(config.encoder, inputs=inputs))
        self.fixed = [name for name in self.encoder.endpoints if name != LAST]
        for name in self.fixed:
            self.encoder.get_submodule(name).requires_grad_(False)
        self.text = text.TextEncoder(config.text_encoder)
        coarse, (middle, fine) = config.encoder.channels(LAST) + COORDINATES, config.decoder
        self.blocks = nn.ModuleList([_deconvolution(coarse, middle), _deconvolution(middle, fine)])
        channels = {32: coarse, 128: middle, FULL: fine}
        self.filters = nn.ModuleDict(
            {str(r): nn.Linear(config.text_encoder.outputs, channels[r]) for r in config.loss_weights}
        )

    def train(self, mode: bool = True) -> "Stream":
        """As every module's, but the fixed layers' batch norms keep to their statistics."""
        super().train(mode)
        for name in self.fixed:
            self.encoder.get_submodule(name).eval()
        return self

    def forward(self, clip: Tensor, words: Tensor, lengths: Tensor) -> dict[int, Tensor]:
        """Response maps S^r (B, 1, ., .) by r for clips (B, C, T, H, W), H and W multiples of 16."""
        with torch.no_grad():
            fixed = self.encoder(clip, (FIXED,))[FIXED]
        features = self.encoder(fixed, (LAST,), after=FIXED)[LAST].mean(2)  # (B, C, T/4, h, w) to (B, C, h, w)
        pyramid = {32: with_coordinates(F.normalize(features, dim=1))}  # V^r by r
        pyramid[128] = self.blocks[0](pyramid[32])  # (B, C, H/4, W/4)
        pyramid[FULL] = self.blocks[1](pyramid[128])  # (B, C, H, W)
        sentence = self.text(words, lengths)
        filters = {int(r): layer(sentence).tanh() for r, layer in self.filters.items()}  # equation 1: (B, C)
        return {r: dynamic_convolution(pyramid[r], filters[r]) for r in filters}


class Sentence(nn.Module):
    """One network a stream, their losses added, their response maps averaged."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleDict({name: Stream(config, inputs=CHANNELS[name]) for name in config.streams})

    def forward(self, batch: TextBatch) -> dict[str, dict[int, Tensor]]:
        """Response maps of each stream by r, of the padded frames."""
        clips = {}
        if "rgb" in self.streams:
            clips["rgb"] = self._padded(batch["frames"], value=0).float() / 127.5 - 1
        if "flow" in self.streams:
            clips["flow"] = self._padded(batch["flow"], value=0)
        return {
            name: stream(clips[name].permute(0, 4, 1, 2, 3), batch["words"], batch["lengths"])
            for name, stream in self.streams.items()
        }

    def loss(self, batch: TextBatch) -> dict[str, Tensor]:
        """Equation 3, summed over streams; beside it the parts, for example ``rgb_32``."""
        mask = self._padded(batch["mask"][..., None], value=IGNORE)[:, self.config.window.before, ..., 0]
        weights, background = self.config.loss_weights, self.config.background_weight
        losses = {
            (name, r): logistic_loss(response, mask, background=background)
            for name, responses in self(batch).items()
            for r, response in responses.items()
        }
        total = torch.stack([weights[r] * value for (_, r), value in losses.items()]).sum()
        return {"loss": total, **{f"{name}_{r}": value for (name, r), value in losses.items()}}

    @torch.no_grad()
    def response(self, batch: TextBatch) -> Tensor:
        """Response map (B, H, W) at the labelled frame: the streams' at r = 512, averaged with weights ``fusion``.

        Of a single window and B sentences, those about it: it is encoded once.
        """
        height, width = batch["frames"].shape[2:4]
        maps = {name: responses[FULL][:, 0, :height, :width] for name, responses in self(batch).items()}
        weights = self.config.fusion
        return torch.stack([weights[name] * x for name, x in maps.items()]).sum(0) / sum(weights[name] for name in maps)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The encoders' last blocks, and what is learned from nothing; section 3.4 gives both one learning rate."""
        encoders, rest = split_parameters(self, self.encoder_slots().values())
        return {"encoder": encoders, "rest": rest}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """Encoders that start from pretrained weights: name of the weights -> module."""
        return {f"{name}3d": stream.get_submodule("encoder") for name, stream in self.streams.items()}

    def _padded(self, x: Tensor, *, value: int) -> Tensor:
        """(B, T, H, W, C) with ``value`` below and on the right: at least `crop`, and multiples of 16."""
        sizes = zip(x.shape[2:4], self.config.crop or (0, 0), strict=True)
        below, right = (-(-max(length, least) // STRIDE) * STRIDE - length for length, least in sizes)
        return F.pad(x, (0, 0, 0, right, 0, below), value=value)


def _deconvolution(inputs: int, outputs: int) -> nn.Sequential:
    """A block of section 3.3: to four times the height and width."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 8, stride=4, padding=2), nn.Conv2d(outputs, outputs, 3, padding=1)
    )
