"""SSA2D, single shot actor-action detection (Rana and Rawat 2021, "We don't Need Thousand Proposals").

Section 3.1: I3D encodes 16 frames to (T/4, H/16, W/16). 3.2: three branches (actor, action, STU-mask) with decoders of
one architecture and weights of their own: 3D deconvolutions with skips from the encoder, a feature pyramid, parallel
atrous convolutions; up to (T/2, H/4, W/4). 3.3: the actor decoder's features are the actor prior. 3.4: AP-infusion puts
them beside the action features and convolves both; SSA-masking multiplies what comes out with the STU-mask and keeps
the unmasked features beside. 3.5: cross-entropy plus the generalised 3D dice loss (equation 1) for each branch. 3.6:
weights 1.3, 1.3 and 0.3, Adam 1e-4, 5 epochs, then 1e-5 for 6, batches of 14; with flow, two encoders that share their
final layers, and skips from both.

What the paper leaves open, decided here:

- Labels are sparse: windows for training have the labelled frame at any output step (step s is frame 2 s), and losses
  count labelled steps only. The mask is the true one there and the predicted one, detached, elsewhere.
- The mask is 4 x 56 x 56 and the features are 8 x 56 x 56: one step of the mask is the maximum over two steps, of
  those that are labelled if one is, and stands for both (``mask_stride``; the released code has a mask of 8 steps).
- The infusion's convolution is 1 x 1 x 1: it only mixes, and 3 x 3 x 3 would cost more than the encoder.
- The streams share what lies behind the last skip, batch norms included; their encodings are concatenated.
- Without atrous convolutions the four are plain ones, so that nothing but their reach is missing.
- Several actions at once: a sigmoid for each, binary cross-entropy, and the dice loss of the sigmoids.
- Equation 4's second term is printed with the wrong sign; equation 5 leaves out the weights that 3.6 gives.

The paper gives no decoder widths, only 35 M parameters for RGB and 55 M for RGB + flow. These make 34.8 M and 56.9 M.

Axes: B batch, T frames of the window, S = T/2 output steps, H, W input; h, w = H/4, W/4; K classes; C channels;
N labelled steps of a batch; M streams.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE
from models.base import Batch, Labels, MultiLabelPredictions, PairScores, Predictions, Window, finite, split_labels
from models.parts import i3d
from models.parts.dice import generalised_dice_loss
from models.parts.i3d import Unit
from models.parts.network import Training, split_parameters

SKIPS = ("Conv3d_2c_3x3", "Mixed_3c")
DEEPEST = "Mixed_5b"
SIXTEEN_FRAMES = Window(before=8, after=7, every=2)
CHANNELS = {"rgb": 3, "flow": 2}


@dataclass(frozen=True)
class Config:
    """Sizes of SSA2D and how it is trained."""

    streams: tuple[str, ...] = ("rgb",)  # of rgb, flow
    encoder: i3d.Config = i3d.DENSE  # of each stream
    decoder: tuple[int, int, int] = (160, 224, 64)  # channels of two deconvolutions and the convolution after them
    pyramid: int = 128  # channels of the coarser map that joins the features; 0: none
    atrous: tuple[int, ...] = (16, 32, 32, 16)
    rates: tuple[int, ...] = (3, 6, 9, 12)
    infusion: str = "concatenation"  # of the actor prior: concatenation, addition or none
    masking: bool = True
    mask_stride: int = 2  # steps of the features that one of the mask stands for
    shared_trunk: bool = False  # the branches share their deconvolutions, as in the released code
    non_local: bool = False  # attention over the encoding, as in the released code
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
    encoder=i3d.SMALL,
    decoder=(48, 32, 16),
    pyramid=16,
    atrous=(8, 8, 8, 8),
    rates=(1, 2, 4, 6),
    dropout=0.0,
    # In so few steps no actor becomes likelier than background at a pixel unless background counts for less.
    background_weight=0.25,
    height=80,
    crop=(80, 112),
    window=Window(before=4, after=3, every=2),
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
    """The configuration for ``rgb``, ``flow`` or ``rgb+flow``."""
    return replace(config, streams=tuple(inputs.split("+")))


VARIANTS: dict[str, Callable[[Config], Config]] = {
    # Table 2
    "without_actor_prior": lambda config: replace(config, infusion="none"),
    "without_ssa_masking": lambda config: replace(config, masking=False),
    "without_atrous": lambda config: replace(config, rates=(1,) * len(config.rates)),
    "without_multi_scale": lambda config: replace(config, pyramid=0),
    # Section 3.4: "we also experimented with feature addition"
    "infusion_by_addition": lambda config: replace(config, infusion="addition"),
    # The released code
    "shared_trunk": lambda config: replace(config, shared_trunk=True),
    "non_local": lambda config: replace(config, non_local=True),
    "mask_each_step": lambda config: replace(config, mask_stride=1),
}
"""Name of a run's variant -> the configuration it makes of the plain one."""


def build(config: Config, labels: Labels) -> "SSA2D":
    """The network of ``config`` for the classes of ``labels``."""
    return SSA2D(config, labels)


class Encoders(nn.Module):
    """Section 3.1 and 3.6: one I3D a stream; a second stream has layers of its own up to the last skip."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        first, *others = config.streams
        self.streams = config.streams
        self.first = i3d.I3D(replace(config.encoder, inputs=CHANNELS[first]))
        self.others = nn.ModuleDict(
            {name: i3d.I3D(replace(config.encoder, inputs=CHANNELS[name], last=SKIPS[-1])) for name in others}
        )
        self.non_local = NonLocal(config) if config.non_local else None

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The encoding (B, ., T/4, H/16, W/16) and the skips (B, ., T/2, h, w) and (B, ., T/2, h/2, w/2)."""
        inputs = {"rgb": batch["frames"].float() / 127.5 - 1} | ({"flow": batch["flow"]} if "flow" in batch else {})
        clips = {name: inputs[name].permute(0, 4, 1, 2, 3) for name in self.streams}  # (B, C, T, H, W)
        if not self.others:
            (clip,) = clips.values()
            found = self.first(clip, (*SKIPS, DEEPEST))
            encoding, skips = found[DEEPEST], [found[name] for name in SKIPS]
        else:
            stems = [self.first, *self.others.values()]
            seen = [stem(clip, SKIPS) for stem, clip in zip(stems, clips.values(), strict=True)]
            together = torch.cat([features[SKIPS[-1]] for features in seen])  # (M * B, ., T/2, h/2, w/2)
            encoded = self.first(together, (DEEPEST,), after=SKIPS[-1])[DEEPEST]
            encoding = torch.cat(encoded.chunk(len(seen)), dim=1)
            skips = [torch.cat([features[name] for features in seen], dim=1) for name in SKIPS]
        return (encoding if self.non_local is None else self.non_local(encoding)), skips[0], skips[1]


class NonLocal(nn.Module):
    """The released code's block: the encoding, reduced, plus attention over all its positions, unscaled."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        inputs, momentum = config.encoder.channels(DEEPEST) * len(config.streams), config.encoder.momentum
        self.channels = config.encoder.channels(SKIPS[-1])
        self.reduce = Unit(inputs, self.channels, (1, 1, 1), momentum=momentum)
        self.theta, self.phi, self.g = (
            nn.Sequential(
                nn.Conv3d(self.channels, self.channels, 1), nn.BatchNorm3d(self.channels, eps=1e-3, momentum=momentum)
            )
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)  # (B, C, T/4, H/16, W/16)
        query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in (self.theta, self.phi, self.g))
        seen = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (B, positions, C)
        return x + seen.transpose(1, 2).view_as(x)


class Deconvolution(nn.Module):
    """3x3x3 transposed convolution, batch norm, ReLU; trimmed or padded to the size of the skip it meets."""

    def __init__(self, inputs: int, outputs: int, stride: i3d.Triple, *, momentum: float) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=momentum)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return F.relu(self.bn(self.deconv(x, output_size=list(size))))


class Trunk(nn.Module):
    """Section 3.2, deconvolutions: the encoding and the skips to features at (T/2, h, w), and the coarser map."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        first, second, _ = config.decoder
        momentum, streams = config.encoder.momentum, len(config.streams)
        skip2c, skip3c = (config.encoder.channels(name) * streams for name in SKIPS)
        encoding = config.encoder.channels(SKIPS[-1] if config.non_local else DEEPEST)
        encoding *= 1 if config.non_local else streams
        self.deconv1 = Deconvolution(encoding, first, (1, 2, 2), momentum=momentum)
        self.side = Unit(first, config.pyramid, (1, 1, 1), momentum=momentum) if config.pyramid else None
        self.deconv2 = Deconvolution(first + skip3c, second, (2, 2, 2), momentum=momentum)
        self.dropout = nn.Dropout3d(config.dropout)
        self.channels = second + skip2c

    def forward(self, encoding: Tensor, skip2c: Tensor, skip3c: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (B, ., T/2, h, w), and the coarser map of the pyramid (B, ., T/4, h/2, w/2), if there is one."""
        # x_3c has T/2 steps, the encoding T/4.
        pooled = F.max_pool3d(skip3c, (2, 1, 1), (2, 1, 1), ceil_mode=True)
        x = self.deconv1(encoding, pooled.shape[2:])  # (B, first, T/4, h/2, w/2)
        coarse = [] if self.side is None else [self.side(x)]
        x = self.deconv2(torch.cat([pooled, x], dim=1), skip2c.shape[2:])  # (B, second, T/2, h, w)
        return self.dropout(torch.cat([skip2c, x], dim=1)), coarse


class Atrous(nn.Module):
    """Section 3.2, behind the deconvolutions: a convolution, and the parallel atrous ones of it."""

    def __init__(self, inputs: int, config: Config) -> None:
        super().__init__()
        momentum, channels = config.encoder.momentum, config.decoder[2]
        self.conv = Unit(inputs, channels, (3, 3, 3), momentum=momentum)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(channels, outputs, 3, padding=(1, rate, rate), dilation=(1, rate, rate)),
                nn.BatchNorm3d(outputs, eps=1e-3, momentum=momentum),
                nn.ReLU(inplace=True),
            )
            for outputs, rate in zip(config.atrous, config.rates, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Pointwise(nn.Conv3d):
    """1 x 1 x 1 convolution of maps side by side; coarser ones are brought to the first's size by nearest neighbour.

    To convolve a map before its pixels are repeated is the same, for an eighth of the positions.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        first, *coarser = self.weight.split([x.shape[1] for x in maps], dim=1)
        found = F.conv3d(maps[0], first, self.bias)
        for x, weight in zip(maps[1:], coarser, strict=True):
            found = found + F.interpolate(F.conv3d(x, weight), size=list(found.shape[2:]), mode="nearest")
        return found


class SSA2D(nn.Module):
    """Encoders, three decoders, actor prior, AP-infusion, SSA-masking."""

    def __init__(self, config: Config, labels: Labels) -> None:
        super().__init__()
        self.config = config
        self.encoders = Encoders(config)
        branches = ("actor", "action", "mask")
        trunks = {name: Trunk(config) for name in (("all",) if config.shared_trunk else branches)}
        self.trunks, inputs = nn.ModuleDict(trunks), next(iter(trunks.values())).channels
        self.atrous = nn.ModuleDict({name: Atrous(inputs, config) for name in branches})
        channels = sum(config.atrous) + config.pyramid
        infused = channels * (2 if config.infusion == "concatenation" else 1)
        self.infuse = Pointwise(infused, channels, bias=False)
        nn.init.kaiming_normal_(self.infuse.weight, mode="fan_out", nonlinearity="relu")
        self.infuse_norm = nn.BatchNorm3d(channels, eps=1e-3, momentum=config.encoder.momentum)
        self.actor = Pointwise(channels, len(labels.actors))
        self.action = nn.Conv3d(channels * (2 if config.masking else 1), len(labels.actions), 3, padding=1)
        self.mask = Pointwise(channels, 2)
        self.pairs = PairScores(labels)
        self.stride, self.multi_label = labels.stride, labels.multi_label

    def forward(self, batch: Batch, true_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of actor and action (B, K, S, h, w) and of the STU-mask (B, 2, S, H/2, W/2).

        ``true_mask`` (B, S, H, W) holds 1 on actors, 0 off them, ``IGNORE`` where unlabelled. A step of the mask that
        stands for no labelled step is the predicted one, as all are without it; single unlabelled pixels are off.
        """
        encoded = self.encoders(batch)
        trunks = {name: trunk(*encoded) for name, trunk in self.trunks.items()}
        features = {}
        for name, atrous in self.atrous.items():
            x, coarse = trunks["all" if self.config.shared_trunk else name]
            features[name] = [atrous(x), *coarse]
        mask = F.interpolate(self.mask(features["mask"]), scale_factor=(1, 2, 2), mode="nearest")
        infused = self.infuse_norm(self.infuse(self._with_prior(features["action"], features["actor"])))
        action = F.relu(infused, inplace=True)  # (B, C, S, h, w)
        if self.config.masking:
            gate = self._gate(mask, true_mask, size=action.shape[2:])
            action = torch.cat([action * gate, action], dim=1)  # filtered beside unfiltered features
        return self.actor(features["actor"]), self.action(action), mask

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Equations 1 to 5 over the labelled steps."""
        labels = batch["labels"][:, ::2]  # (B, S, H, W): output steps are every second frame
        labelled = (labels != IGNORE).flatten(2).any(2)  # (B, S): upsample the steps that count only
        mask_truth = torch.where(labels == IGNORE, IGNORE, (labels > 0).long())
        actor, action, mask = (
            F.interpolate(scores.transpose(1, 2)[labelled], size=labels.shape[2:], mode="bilinear", align_corners=False)
            for scores in self(batch, true_mask=mask_truth)
        )  # (N, K, H, W)
        clips = labelled.nonzero()[:, 0]  # (N,) which clip of the batch a labelled step is of
        if self.multi_label:
            actor_truth = labels[labelled].long()
            done = batch["actions"][:, ::2][labelled].float()  # (N, K, H, W)
            action_loss = _binary_loss(action, done, kept=actor_truth != IGNORE, clips=clips)
        else:
            actor_truth, action_truth = (x[labelled] for x in split_labels(labels, stride=self.stride))
            action_loss = self._loss(action, action_truth, clips, background=self.config.background_weight)
        losses = {
            "actor": self._loss(actor, actor_truth, clips, background=self.config.background_weight),
            "action": action_loss,
            "mask": self._loss(mask, mask_truth[labelled], clips, background=1.0),
        }
        total = torch.stack([self.config.loss_weights[name] * value for name, value in losses.items()]).sum()
        return {"loss": total, **losses}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Predictions | MultiLabelPredictions:
        """Label maps at the labelled frame (``window.before``) at the resolution of the frames."""
        return self.predict_frames(batch, [self.config.window.before])

    @torch.no_grad()
    def predict_frames(self, batch: Batch, positions: Sequence[int]) -> Predictions | MultiLabelPredictions:
        """Label maps at ``positions`` of the window, (B * positions, H, W): the frames of a clip one after another.

        An odd frame lies between two output steps and gets the mean of their scores (section 3.2: linear
        interpolation).
        """
        shape = batch["frames"].shape[2:4]
        actor, action, _ = (_at_frames(scores, positions, shape) for scores in self(batch))
        if self.multi_label:
            who = finite(actor, "scores").max(1).indices
            return MultiLabelPredictions(actor=who.byte(), actions=(finite(action, "scores") > 0) & (who > 0)[:, None])
        return self.pairs(actor, action)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The pretrained encoders, and what is learned from nothing; section 3.6 gives both one learning rate."""
        encoders, rest = split_parameters(self, self.encoder_slots().values())
        return {"encoder": encoders, "rest": rest}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """Encoders that start from pretrained weights: name of the weights -> module."""
        streams = zip(self.config.streams, (self.encoders.first, *self.encoders.others.values()), strict=True)
        return {f"{name}3d": encoder for name, encoder in streams}

    def _with_prior(self, action: list[Tensor], prior: list[Tensor]) -> list[Tensor]:
        """AP-infusion before its convolution, of the features and of their coarser map."""
        if self.config.infusion == "none":
            return action
        pairs = zip(action, prior, strict=True)
        return [x + y if self.config.infusion == "addition" else torch.cat([x, y], dim=1) for x, y in pairs]

    def _loss(self, scores: Tensor, truth: Tensor, clips: Tensor, *, background: float) -> Tensor:
        """Equations 2 to 4: cross-entropy and dice of (N, K, H, W) scores and (N, H, W) class ids."""
        weights = scores.new_ones(scores.shape[1])
        weights[0] = background
        entropy = F.cross_entropy(scores, truth, weights, ignore_index=IGNORE)
        kept = truth != IGNORE
        one_hot = F.one_hot(truth.clamp(max=scores.shape[1] - 1), scores.shape[1]).permute(0, 3, 1, 2)
        return entropy + generalised_dice_loss(scores.softmax(1), one_hot, kept=kept, clips=clips)

    def _gate(self, mask: Tensor, true_mask: Tensor | None, *, size: torch.Size) -> Tensor:
        """STU-mask (B, 1, S, h, w): max-pooled, predicted and detached where no true one is known."""
        stride = self.config.mask_stride
        coarser = partial(F.max_pool3d, kernel_size=(stride, 1, 1), ceil_mode=True)  # (., ., S, ...) to S / stride
        gate = coarser(F.adaptive_max_pool3d(mask.softmax(1)[:, 1:].detach(), list(size)))
        if true_mask is not None:
            # Where one of the steps that a step of the mask stands for is labelled, its truth stands for all of them.
            known = coarser((true_mask != IGNORE).flatten(2).any(2)[:, None, :, None, None].float())
            truth = coarser(F.adaptive_max_pool3d((true_mask == 1)[:, None].float(), list(size)))
            gate = torch.where(known > 0, truth, gate)
        return gate.repeat_interleave(stride, dim=2)[:, :, : size[0]]


def _binary_loss(scores: Tensor, truth: Tensor, *, kept: Tensor, clips: Tensor) -> Tensor:
    """Equation 3 for several actions at once: (N, K, H, W) scores and 0 or 1; background is none of the classes."""
    entropy = F.binary_cross_entropy_with_logits(scores[:, 1:], truth[:, 1:], reduction="none").mean(1)[kept].mean()
    return entropy + generalised_dice_loss(scores[:, 1:].sigmoid(), truth[:, 1:], kept=kept, clips=clips)


def _at_frames(scores: Tensor, positions: Sequence[int], shape: Sequence[int]) -> Tensor:
    """(B, K, S, h, w) to (B * positions, K, H, W); step s is frame 2 s, behind the last step nothing changes."""
    last = scores.shape[2] - 1
    before = [min(position // 2, last) for position in positions]
    after = [min((position + 1) // 2, last) for position in positions]
    between = (scores[:, :, before] + scores[:, :, after]) / 2  # (B, K, positions, h, w)
    return F.interpolate(between.transpose(1, 2).flatten(0, 1), size=list(shape), mode="bilinear", align_corners=False)
