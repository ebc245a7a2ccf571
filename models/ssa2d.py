"""SSA2D, single shot actor-action detection (Rana and Rawat 2021, "We don't Need Thousand Proposals").

Section 3.1: I3D encodes 16 frames to (T/4, H/16, W/16). 3.2: three branches (actor, action, STU-mask) with decoders of
one architecture and weights of their own: 3D deconvolutions with skips from the encoder, a feature pyramid, parallel
atrous convolutions; up to (T/2, H/4, W/4). 3.3: the actor decoder's features are the actor prior. 3.4: AP-infusion puts
them beside the action features; SSA-masking multiplies these with the STU-mask and keeps the unmasked ones beside.
3.5: cross-entropy plus the generalised 3D dice loss (equation 1) for each branch; 3.6: weights 1.3, 1.3 and 0.3, Adam
1e-4, 5 epochs, then 1e-5 for 6, batches of 14.

What the paper leaves open, decided here: labels are sparse, so windows are aligned until the labelled frame falls on an
output step (every second frame), and losses count labelled steps only; the mask is the true one there and the predicted
one, detached, elsewhere; it is brought to the features' own 8 x 56 x 56 by max pooling (the paper names 4 x 56 x 56
and features of 8 x 56 x 56, which do not multiply). The paper gives no decoder widths: those here make 36.9 M
parameters where it says 35 M, 5.4 % more (the released code shares one wider trunk between the branches). Equation 4's
second term is printed with the wrong sign.

Axes: B batch, T frames of the window, S = T/2 output steps, H, W input; K classes; C channels.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, i3d
from models.base import Batch, Labels, PairScores, Predictions, Training, Window, split_labels
from models.i3d import Unit

SKIPS = ("Conv3d_2c_3x3", "Mixed_3c")
DEEPEST = "Mixed_5b"
# No pool before Mixed_5b and no Mixed_5c: the encoding stays at (T/4, H/16, W/16).
ENCODER = i3d.Config(last=DEEPEST, strides={"MaxPool3d_5a_2x2": (1, 1, 1)})
SIXTEEN_FRAMES = Window(before=8, after=7)


@dataclass(frozen=True)
class Config:
    """Sizes of SSA2D and how it is trained."""

    streams: tuple[str, ...] = ("rgb",)
    encoder: i3d.Config = ENCODER
    decoder: tuple[int, int, int] = (256, 128, 64)  # channels of two deconvolutions and the convolution after them
    pyramid: int = 128
    atrous: tuple[int, ...] = (16, 32, 32, 16)
    rates: tuple[int, ...] = (3, 6, 9, 12)
    dropout: float = 0.3
    loss_weights: dict[str, float] = field(default_factory=lambda: {"actor": 1.3, "action": 1.3, "mask": 0.3})
    background_weight: float = 1.0  # of background in the cross-entropy of actor and action
    height: int | None = None
    crop: tuple[int, int] | None = (224, 224)
    window: Window = SIXTEEN_FRAMES
    flow_encoding: str = "clipped"
    training: Training = field(
        # 5 epochs at 1e-4 and 6 at 1e-5 over A2D's 9,561 training frames in batches of 14.
        default=Training(
            steps=7_513,
            batch=14,
            learning_rates={"encoder": 1e-4, "rest": 1e-4},
            optimiser="adam",
            schedule="step:3415:0.1",
            weight_decay=0,
        )
    )


paper = Config()
small = Config(
    encoder=replace(paper.encoder, width=0.25, momentum=0.1),
    decoder=(48, 32, 16),
    pyramid=16,
    atrous=(8, 8, 8, 8),
    rates=(1, 2, 4, 6),
    dropout=0.0,
    # In so few steps no actor becomes likelier than background at a pixel unless background counts for less.
    background_weight=0.25,
    height=80,
    crop=(80, 112),
    window=Window(before=4, after=3),
    training=Training(
        steps=280,
        batch=8,
        learning_rates={"encoder": 1e-3, "rest": 3e-3},
        optimiser="adam",
        schedule="cosine",
        weight_decay=1e-4,
    ),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """The configuration for ``inputs``. Raises ``ValueError`` for streams that are not built yet."""
    if inputs != "rgb":
        raise ValueError(f"runs: ssa2d with inputs `{inputs}`: only `rgb` is built")
    return replace(config, streams=("rgb",))


def build(config: Config, labels: Labels) -> "SSA2D":
    """The network of ``config`` for the classes of ``labels``."""
    return SSA2D(config, labels)


class Deconvolution(nn.Module):
    """3x3x3 transposed convolution, batch norm, ReLU; trimmed or padded to the size of the skip it meets."""

    def __init__(self, inputs: int, outputs: int, stride: i3d.Triple, *, momentum: float) -> None:
        super().__init__()
        self.stride = stride
        self.deconv = nn.ConvTranspose3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=momentum)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return F.relu(self.bn(self.deconv(x, output_size=list(size))))


class Decoder(nn.Module):
    """Section 3.2: f_enc (B, C, T/4, H/16, W/16) and skips to features (B, ., T/2, H/4, W/4)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        first, second, third = config.decoder
        momentum = config.encoder.momentum
        skip2c, skip3c = (config.encoder.channels(name) for name in SKIPS)
        self.deconv1 = Deconvolution(config.encoder.channels(DEEPEST), first, (1, 2, 2), momentum=momentum)
        self.side = Unit(first, config.pyramid, (1, 1, 1), momentum=momentum)
        self.deconv2 = Deconvolution(first + skip3c, second, (2, 2, 2), momentum=momentum)
        self.dropout = nn.Dropout3d(config.dropout)
        self.conv = Unit(second + skip2c, third, (3, 3, 3), momentum=momentum)
        self.atrous = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(third, channels, 3, padding=(1, rate, rate), dilation=(1, rate, rate)),
                nn.BatchNorm3d(channels, eps=1e-3, momentum=momentum),
                nn.ReLU(inplace=True),
            )
            for channels, rate in zip(config.atrous, config.rates, strict=True)
        )
        self.channels = sum(config.atrous) + config.pyramid

    def forward(self, encoding: Tensor, skip2c: Tensor, skip3c: Tensor) -> Tensor:
        steps, height, width = skip2c.shape[2:]  # T/2, H/4, W/4
        # x_3c has T/2 steps, the encoding T/4.
        pooled = F.max_pool3d(skip3c, (2, 1, 1), (2, 1, 1), ceil_mode=True)
        x = self.deconv1(encoding, pooled.shape[2:])  # (B, first, T/4, H/8, W/8)
        side = F.interpolate(self.side(x), size=(steps, height, width), mode="nearest")
        x = self.deconv2(torch.cat([pooled, x], dim=1), skip2c.shape[2:])  # (B, second, T/2, H/4, W/4)
        x = self.conv(self.dropout(torch.cat([skip2c, x], dim=1)))
        return torch.cat([*(branch(x) for branch in self.atrous), side], dim=1)


class SSA2D(nn.Module):
    """Encoder, three decoders, actor prior, AP-infusion, SSA-masking."""

    def __init__(self, config: Config, labels: Labels) -> None:
        super().__init__()
        self.config = config
        self.encoder = i3d.I3D(config.encoder)
        self.decode_actor, self.decode_action, self.decode_mask = (Decoder(config) for _ in range(3))
        prior = self.decode_actor.channels
        infused = self.decode_action.channels + prior
        self.actor = nn.Conv3d(prior, len(labels.actors), 1)
        self.action = nn.Conv3d(2 * infused, len(labels.actions), 3, padding=1)
        self.mask = nn.Conv3d(self.decode_mask.channels, 2, 1)
        self.pairs = PairScores(labels)
        self.stride = labels.stride

    def forward(self, batch: Batch, true_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of actor and action (B, K, S, H/4, W/4) and of the STU-mask (B, 2, S, H/2, W/2).

        ``true_mask`` (B, S, H, W) holds 1 on actors, 0 off them, ``IGNORE`` where unlabelled: there, and without it,
        the predicted mask is used.
        """
        clip = batch["frames"].permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, H, W) in [-1, 1]
        features = self.encoder(clip, (*SKIPS, DEEPEST))
        inputs = (features[DEEPEST], *(features[name] for name in SKIPS))
        prior = self.decode_actor(*inputs)  # A-prior
        action = torch.cat([self.decode_action(*inputs), prior], dim=1)  # AP-infusion
        mask = F.interpolate(self.decode_mask(*inputs), scale_factor=(1, 2, 2), mode="nearest")
        mask = self.mask(mask)
        gate = self._gate(mask, true_mask, size=action.shape[2:])
        action = torch.cat([action * gate, action], dim=1)  # SSA-masking: filtered beside unfiltered features
        return self.actor(prior), self.action(action), mask

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Equations 1 to 5 over the labelled steps."""
        labels = batch["labels"][:, ::2]  # (B, S, H, W): output steps are every second frame
        actor_truth, action_truth = split_labels(labels, stride=self.stride)
        mask_truth = torch.where(labels == IGNORE, IGNORE, (labels > 0).long())
        logits = self(batch, true_mask=mask_truth)
        weights = self.config.loss_weights
        truths = {"actor": actor_truth, "action": action_truth, "mask": mask_truth}
        losses = {}
        labelled = (labels != IGNORE).flatten(2).any(2)  # (B, S): upsample the steps that count only
        for (name, truth), scores in zip(truths.items(), logits, strict=True):
            scores = scores.transpose(1, 2)[labelled]  # (N, K, h, w)
            scores = F.interpolate(scores, size=truth.shape[2:], mode="bilinear", align_corners=False)
            entropy = F.cross_entropy(scores, truth[labelled], self._class_weights(name, scores), ignore_index=IGNORE)
            losses[name] = entropy + generalised_dice_loss(scores.softmax(1), truth[labelled])
        return {"loss": sum(weights[name] * losses[name] for name in losses), **losses}  # type: ignore[dict-item]

    @torch.no_grad()
    def predict(self, batch: Batch) -> Predictions:
        """Label maps at the centre frame (``window.before``) at the resolution of the frames."""
        shape = batch["frames"].shape[2:4]
        actor, action, _ = self(batch)
        step = self.config.window.before // 2
        upsampled = [
            F.interpolate(x[:, :, step], size=shape, mode="bilinear", align_corners=False) for x in (actor, action)
        ]
        return self.pairs(*upsampled)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The pretrained encoder, and what is learned from nothing; section 3.6 gives both one learning rate."""
        encoder = list(self.encoder.parameters())
        own = {id(parameter) for parameter in encoder}
        return {"encoder": encoder, "rest": [p for p in self.parameters() if id(p) not in own]}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """Encoders that start from pretrained weights: name of the weights -> module."""
        return {"rgb3d": self.encoder}

    def _class_weights(self, name: str, scores: Tensor) -> Tensor:
        """(K,) weights of the classes in the cross-entropy."""
        weights = scores.new_ones(scores.shape[1])
        if name != "mask":
            weights[0] = self.config.background_weight
        return weights

    def _gate(self, mask: Tensor, true_mask: Tensor | None, *, size: torch.Size) -> Tensor:
        """STU-mask (B, 1, S, H/4, W/4): max-pooled, predicted and detached where no true one is known."""
        gate = F.adaptive_max_pool3d(mask.softmax(1)[:, 1:].detach(), list(size))
        if true_mask is None:
            return gate
        known = (true_mask != IGNORE).flatten(2).any(2)[:, None, :, None, None]  # (B, 1, S, 1, 1)
        truth = F.adaptive_max_pool3d((true_mask == 1)[:, None].float(), list(size))
        return torch.where(known, truth, gate)


def generalised_dice_loss(probabilities: Tensor, truth: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Equation 1: 1 - 2 sum p q / sum (p^2 + q^2 + epsilon), sums over classes and labelled pixels.

    ``probabilities`` (N, K, H, W); ``truth`` (N, H, W) of class ids, ``IGNORE`` left out.
    """
    classes = probabilities.shape[1]
    kept = (truth != IGNORE)[:, None]  # (N, 1, H, W)
    one_hot = F.one_hot(truth.clamp(max=classes - 1), classes).permute(0, 3, 1, 2) * kept
    predicted = probabilities * kept
    overlap = (predicted * one_hot).sum()
    total = predicted.square().sum() + one_hot.sum() + classes * epsilon
    return 1 - 2 * overlap / total
