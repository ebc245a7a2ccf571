"""FlowNet: optical flow by convolution (Dosovitskiy et al. 2015, "FlowNet: Learning Optical Flow with Convolutional
Networks", arXiv 1504.06852).

Section 3: FlowNetS stacks both frames; FlowNetC gives each frame the same three convolutions and multiplies the
features of the first with those of the second around them (equation 1, here of single pixels). Both contract to 1/64
and refine to 1/4 of the resolution, where every scale sees the features of its size, the deeper ones and the flow they
gave. Section 5: five scales are trained at once, on endpoint error.

Sizes and key names (conv3_1.0.weight, predict_flow6.weight, upsampled_flow6_to_5.weight) are those of the common
PyTorch port (ClementPinard/FlowNetPytorch, without batch norm), so that flownets_EPE1.951.pth and flownetc_EPE1.766.pth
load by name. So is what the paper leaves open: flow in units of 20 pixels, a mean taken off the frames, the order of
the correlation's channels, and the weights of the scales, which the port has from the authors' training files.

Sizes that are no multiple of 64: every convolution of stride 2 rounds up, and what is upsampled is cut to the features
it meets, at the right and at the bottom, as in the port. So a cell of stride s is always the pixels s * i to
s * i + s - 1: nothing is resized, no flow has to be rescaled, and the last row and column see zeros beyond the frame.

Axes: B pairs, C channels, H, W frame, h, w a scale's own; N (21) displacements along an axis; (u, v) pixels to the
right and down.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts.network import Encoder, Training, load_encoder

SCALES = (4, 8, 16, 32, 64)
"""Frame over flow resolution of the predictions, finest first."""
ROBUST_OFFSET = 0.01
"""Keeps the gradient of the robust loss finite at no error (Sun et al. 2018)."""


class Pairs(TypedDict, total=False):
    """Pairs of frames of one size, and the flow from the first to the second."""

    first: Tensor  # (B, H, W, 3) uint8 RGB
    second: Tensor  # (B, H, W, 3) uint8 RGB
    flow: Tensor  # (B, H, W, 2) float32 (u, v) in pixels, NaN where it is not known; training only
    valid: Tensor  # (B, H, W) bool, False where flow is not to be believed; may be left out


@dataclass(frozen=True)
class Config:
    """Sizes of one FlowNet and how it is trained. ``width`` scales every channel count but the flow's own."""

    kind: str = "s"  # s stacks the frames, c correlates them
    width: float = 1.0
    displacement: int = 20  # of the correlation, in cells of 8 pixels: 160 pixels each way
    step: int = 2  # of the correlation, in cells: 21 x 21 displacements
    # On RGB, although it is the mean of FlyingChairs in the order BGR: the public weights were trained with it.
    mean: tuple[float, float, float] = (0.411, 0.432, 0.45)
    batch_norm: bool = False  # after every convolution of the contraction, as in the port's flownets_bn
    deviation: float = 1.0  # what frames are divided by once the mean is off
    flow_gain: float = 1.0  # on the initial weights of the five layers that predict flow
    div_flow: float = 20.0  # pixels; the network's unit of flow
    scale_weights: tuple[float, ...] = (0.005, 0.01, 0.02, 0.08, 0.32)  # finest first
    # The loss is (endpoint error + 0.01)^exponent: 1 is FlowNet's own; PWC-Net (Sun et al. 2018) fine-tunes with 0.4.
    exponent: float = 1.0
    crop: tuple[int, int] = (320, 448)  # of the training pairs
    curriculum: float = 0.0  # share of the training over which ever faster generated pairs join the slow ones
    training: Training = field(
        # Section 5.1: Adam, 1e-4, eight pairs, halved after 300,000 of 600,000 steps and every 100,000 after them.
        default=Training(
            steps=600_000,
            batch=8,
            learning_rates={"all": 1e-4},
            optimiser="adam",
            schedule="step:300000,400000,500000:0.5",
            weight_decay=4e-4,
        )
    )

    def __post_init__(self) -> None:
        if self.kind not in {"s", "c"}:
            raise ValueError(f"flownet: kind `{self.kind}` is neither `s` (FlowNetS) nor `c` (FlowNetC)")
        if self.step < 1 or self.displacement % self.step:
            raise ValueError(f"flownet: displacement {self.displacement} must be a multiple of step {self.step}")

    def scaled(self, channels: int) -> int:
        """``channels`` at this width, at least 4."""
        return max(4, round(channels * self.width))

    @property
    def displacements(self) -> int:
        """N, displacements of the correlation along one axis."""
        return 2 * (self.displacement // self.step) + 1


flownets_paper = Config()
flownetc_paper = replace(flownets_paper, kind="c")
flownets_small = replace(
    flownets_paper,
    width=0.25,
    # What a few thousand steps need that 600,000 do not: without these four the network leaves zero flow only when most
    # of its steps are gone. With them slow motion, which is most of what clips show, is told apart, too.
    batch_norm=True,
    deviation=0.2,
    exponent=0.5,
    curriculum=0.7,
    # Random flow is worse than none: from 1, the first hundred steps unlearn features in order to be rid of it.
    flow_gain=0.01,
    crop=(128, 192),
    training=Training(
        steps=3_000, batch=4, learning_rates={"all": 1e-3}, optimiser="adam", schedule="cosine", weight_decay=4e-4
    ),
)
flownetc_small = replace(
    flownets_small,
    kind="c",
    # Every cell out to 64 pixels, where the published correlation has every second one out to 160: the small network is
    # trained on smaller frames and slower motion.
    displacement=8,
    step=1,
)


CONFIGURATIONS = {
    "flownets": {"paper": flownets_paper, "small": flownets_small},
    "flownetc": {"paper": flownetc_paper, "small": flownetc_small},
}


def configuration(network: str, name: str) -> Config:
    """``paper`` or ``small`` of ``flownets`` or ``flownetc``. Raises ``ValueError`` that names those there are."""
    if network not in CONFIGURATIONS or name not in CONFIGURATIONS[network]:
        raise ValueError(f"no FlowNet `{network}` of size `{name}`; write flownets or flownetc, paper or small")
    return CONFIGURATIONS[network][name]


def build(config: Config) -> "FlowNet":
    """The network of ``config``."""
    return FlowNetS(config) if config.kind == "s" else FlowNetC(config)


class FlowNet(Encoder):
    """What FlowNetS and FlowNetC share: the contraction from conv4 on, and the refinement."""

    beyond = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        scaled = config.scaled
        convolution = partial(_convolution, batch_norm=config.batch_norm)
        self.conv4 = convolution(scaled(256), scaled(512), stride=2)
        self.conv4_1 = convolution(scaled(512), scaled(512))
        self.conv5 = convolution(scaled(512), scaled(512), stride=2)
        self.conv5_1 = convolution(scaled(512), scaled(512))
        self.conv6 = convolution(scaled(512), scaled(1024), stride=2)
        self.conv6_1 = convolution(scaled(1024), scaled(1024))
        channels = scaled(1024)
        self.predict_flow6 = _prediction(channels)
        for level, skip, refined in ((5, 512, 512), (4, 512, 256), (3, 256, 128), (2, 128, 64)):
            setattr(self, f"upsampled_flow{level + 1}_to_{level}", nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False))
            setattr(self, f"deconv{level}", _deconvolution(channels, scaled(refined)))
            channels = scaled(skip) + scaled(refined) + 2
            setattr(self, f"predict_flow{level}", _prediction(channels))
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)

    mean: Tensor  # (3, 1, 1)

    def forward(self, pairs: Pairs) -> list[Tensor]:
        """Flow at 1/4 to 1/64 of the resolution, finest first: (B, 2, h, w) each, in units of ``div_flow`` pixels."""
        skip2, skip3 = self.features(self._normalised(pairs["first"]), self._normalised(pairs["second"]))
        skip4 = self.conv4_1(self.conv4(skip3))
        skip5 = self.conv5_1(self.conv5(skip4))
        x = self.conv6_1(self.conv6(skip5))
        flows = [self.predict_flow6(x)]
        for level, skip in ((5, skip5), (4, skip4), (3, skip3), (2, skip2)):
            height, width = skip.shape[2:]
            refined = self.get_submodule(f"deconv{level}")(x)[:, :, :height, :width]
            coarse = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(flows[0])[:, :, :height, :width]
            x = torch.cat([skip, refined, coarse], dim=1)
            flows.insert(0, self.get_submodule(f"predict_flow{level}")(x))
        return flows

    def features(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, H, W) to the skips conv2 (B, ., H/4, W/4) and conv3_1 (B, ., H/8, W/8)."""
        raise NotImplementedError

    def loss(self, batch: Pairs) -> dict[str, Tensor]:
        """Endpoint error (or a power of it) summed over the cells of a scale and weighted over the scales, per pair.

        The truth of a cell is the mean of its known pixels; a cell without any does not count. ``endpoint_error`` is
        that of ``predict``, in pixels. Raises ``ValueError`` where no pixel of the batch is known.
        """
        truth, known = _known_flow(batch)  # (B, 2, H, W) pixels, (B, 1, H, W)
        predictions = self(batch)
        total = truth.new_zeros(())
        for weight, prediction, scale in zip(self.config.scale_weights, predictions, SCALES, strict=True):
            target, counts = _pooled(truth / self.config.div_flow, known, scale)
            error = torch.linalg.vector_norm(prediction - target, dim=1, keepdim=True)
            if self.config.exponent != 1:
                error = (error + ROBUST_OFFSET) ** self.config.exponent
            total = total + weight * (error * counts).sum() / len(truth)
        with torch.no_grad():
            error = torch.linalg.vector_norm(self._full_size(predictions[0], truth) - truth, dim=1, keepdim=True)
        return {"loss": total, "endpoint_error": (error * known).sum() / known.sum()}

    @torch.no_grad()
    def predict(self, pairs: Pairs) -> Tensor:
        """Flow (B, H, W, 2) float32, (u, v) in pixels: the finest prediction, upsampled bilinearly (section 3).

        On a CPU pairs go through one by one, because its convolutions round otherwise in another batch: a pair's flow
        has the same bits in every batch, for about a tenth of the time. On a GPU it differs by rounding.
        """
        singly = pairs["first"].device.type == "cpu"
        firsts, seconds = (pairs[key].split(1 if singly else len(pairs["first"])) for key in ("first", "second"))
        flows = []
        for first, second in zip(firsts, seconds, strict=True):
            finest = self(Pairs(first=first, second=second))[0]
            flows.append(self._full_size(finest, first.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return torch.cat(flows).contiguous()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All of them: nothing is pretrained."""
        return {"all": list(self.parameters())}

    def _normalised(self, frames: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W) around 0."""
        assert frames.dtype == torch.uint8, frames.dtype
        return (frames.contiguous().permute(0, 3, 1, 2).float() / 255 - self.mean) / self.config.deviation

    def _full_size(self, finest: Tensor, frames: Tensor) -> Tensor:
        """Flow (B, 2, h, w) of a quarter of the resolution to that of ``frames`` (B, ., H, W), in pixels."""
        flow = F.interpolate(finest, scale_factor=SCALES[0], mode="bilinear", align_corners=False)
        return flow[:, :, : frames.shape[2], : frames.shape[3]] * self.config.div_flow


class FlowNetS(FlowNet):
    """FlowNetSimple: the frames stacked."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        scaled, convolution = config.scaled, partial(_convolution, batch_norm=config.batch_norm)
        self.conv1 = convolution(6, scaled(64), kernel=7, stride=2)
        self.conv2 = convolution(scaled(64), scaled(128), kernel=5, stride=2)
        self.conv3 = convolution(scaled(128), scaled(256), kernel=5, stride=2)
        self.conv3_1 = convolution(scaled(256), scaled(256))
        _initialise(self)

    def features(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        conv2 = self.conv2(self.conv1(torch.cat([first, second], dim=1)))
        return conv2, self.conv3_1(self.conv3(conv2))


class FlowNetC(FlowNet):
    """FlowNetCorr: the frames' features multiplied, beside some of the first frame's."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        scaled, convolution = config.scaled, partial(_convolution, batch_norm=config.batch_norm)
        self.conv1 = convolution(3, scaled(64), kernel=7, stride=2)
        self.conv2 = convolution(scaled(64), scaled(128), kernel=5, stride=2)
        self.conv3 = convolution(scaled(128), scaled(256), kernel=5, stride=2)
        self.conv_redir = convolution(scaled(256), scaled(32), kernel=1)
        self.conv3_1 = convolution(scaled(32) + config.displacements**2, scaled(256))
        _initialise(self)

    def features(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        conv2 = self.conv2(self.conv1(torch.cat([first, second])))  # (2B, ., H/4, W/4)
        one, two = self.conv3(conv2).chunk(2)
        products = correlation(one, two, displacement=self.config.displacement, step=self.config.step)
        merged = torch.cat([self.conv_redir(one), F.leaky_relu(products, 0.1)], dim=1)
        return conv2[: len(first)], self.conv3_1(merged)


def correlation(first: Tensor, second: Tensor, *, displacement: int, step: int) -> Tensor:
    """Equation 1 for single pixels, over the channels' number: the mean product of features a displacement apart.

    (B, C, h, w) twice to (B, N * N, h, w), N = 2 * ``displacement`` / ``step`` + 1; channel i * N + j multiplies the
    pixel (x, y) of ``first`` with (x + (j - N // 2) * step, y + (i - N // 2) * step) of ``second``, 0 outside.

    Computed as one matrix product for each i, of a row's pixels with all pixels of the displaced row that are a
    multiple of ``step`` away, of which the N nearest are kept. The most memory it holds beside inputs and result is one
    such product: B * h * w * (w / step + N) numbers.
    """
    batch, channels, height, width = first.shape
    reach = displacement // step
    near = 2 * reach + 1
    columns = -(-width // step)  # of each residue R of x modulo step
    missing = columns * step - width
    one = F.pad(first / channels, (0, missing)).view(batch, channels, height, columns, step)
    rows = one.permute(2, 0, 4, 3, 1).reshape(-1, columns, channels)  # (h * B * R, columns, C)
    margin = reach * step
    two = F.pad(second, (margin, margin + missing, margin, margin))
    two = two.view(batch, channels, height + 2 * margin, columns + 2 * reach, step)
    displaced = two.permute(2, 0, 4, 1, 3).contiguous()  # (h + 2 margin, B, R, C, columns + 2 reach): views by row
    kept = []
    for shift in range(0, 2 * margin + 1, step):
        products = rows @ displaced[shift : shift + height].flatten(0, 2)  # (h * B * R, columns, columns + 2 reach)
        # Column k + j of row k for each j: rows that are one longer shift each row by one more.
        skewed = F.pad(products.flatten(1), (0, columns)).view(-1, columns, columns + near)
        kept.append(skewed[:, :, :near].reshape(height, batch, step, columns, near))
    volume = torch.stack(kept).permute(2, 0, 5, 1, 4, 3)  # (N, h, B, R, columns, N) -> (B, N, N, h, columns, R)
    return volume.reshape(batch, near * near, height, columns * step)[..., :width]


def load_public(network: FlowNet, checkpoint: dict[str, Any], *, where: str) -> None:
    """Load a checkpoint of the public port, as ``torch.load(..., weights_only=True)`` gives it: a state dict, or a
    dict that holds it as ``state_dict``, its keys perhaps behind ``module.``.

    Raises ``ValueError`` that lists the keys that do not fit, or names a ``div_flow`` that is not the network's.
    """
    unit = float(checkpoint.get("div_flow", network.config.div_flow))
    if unit != network.config.div_flow:
        raise ValueError(
            f"{where} was trained with div_flow {unit:g}, this network has {network.config.div_flow:g}: "
            f"build it with div_flow={unit:g}"
        )
    weights = checkpoint.get("state_dict", checkpoint)
    load_encoder(network, {key.removeprefix("module."): value for key, value in weights.items()}, where=where)


def _known_flow(batch: Pairs) -> tuple[Tensor, Tensor]:
    """Flow (B, 2, H, W) in pixels, 0 where it is not known, and 1 where it is (B, 1, H, W)."""
    flow = batch["flow"].permute(0, 3, 1, 2)
    known = flow.isfinite().all(1, keepdim=True)
    if "valid" in batch:
        known = known & batch["valid"][:, None]
    if not known.any():
        raise ValueError("no pixel of this batch has a known flow: leave such pairs out of the training set")
    return torch.where(known, flow, 0), known.to(flow.dtype)


def _pooled(flow: Tensor, known: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Mean flow of the known pixels of each cell (B, 2, h, w), and 1 where a cell has any (B, 1, h, w)."""
    total, share = (F.avg_pool2d(x, scale, ceil_mode=True) for x in (flow, known))
    return total / share.clamp(min=1e-9), (share > 0).to(flow.dtype)


def _convolution(inputs: int, outputs: int, *, batch_norm: bool, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=not batch_norm)
    normalised = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return nn.Sequential(convolution, *normalised, nn.LeakyReLU(0.1, inplace=True))


def _deconvolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.LeakyReLU(0.1, inplace=True))


def _prediction(inputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, 2, 3, padding=1, bias=False)


def _initialise(network: FlowNet) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("predict_flow"):
                parameter.mul_(network.config.flow_gain)
