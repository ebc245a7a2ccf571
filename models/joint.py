"""Joint segmentation of actors and actions (Ji et al. 2018, "End-to-end Joint Semantic Segmentation of Actors and
Actions in Video").

Section 3.1: a Mask R-CNN (``models.parts.maskrcnn``) finds boxes, actors and masks on the appearance pyramid of the
labelled frame (RoIAlign-AR). Section 3.2: a mirrored residual network with a pyramid of its own sees optical flow as u,
v and magnitude. On every level of both streams' pyramids a 3 x 1 x 1 convolution gathers the frames before and after;
the streams are concatenated level by level (mid-level fusion), RoIAlign-AN pools from them, and the action head says
what each RoI does. Section 3.3, equation 1: all losses at once, of labelled frames only. Section 4: SGD, 2e-4; pairs
that cannot occur are left out in training and inference; Mask R-CNN starts from COCO, the flow stream from ImageNet.

What the paper leaves open or the released code (JingweiJ/JointActorActionSeg) has otherwise, decided here:

- The backbone is network and pyramid (section 3.1), and actor and action share its activations: one pyramid a stream.
  The released code has three, one of them for the appearance of actions alone.
- One temporal convolution a level sees three frames, so a window is three. Of the released code's five, two reach
  nothing. The convolution is not padded: what it computes is the labelled frame's.
- Equation 1 has five terms; its box regression is that of the RPN and that of the RoIs, each with its own weight. All
  weights are 1, as in the released code.
- The action head has a class for background, which RoIs without an actor teach it, as in the released code.
- Pairs that cannot occur, training: an actor said to do what it cannot is learned with its box and mask, but teaches no
  action, as one whose action nobody told. Inference: only pairs that can occur compete.
- A detection is of its likeliest actor; that actor's box is refined and its mask taken. It counts where the actor and
  the likeliest action that this actor can do exceed their thresholds; NMS among detections of one actor, on its score.
  The released code asks besides that neither head's likeliest class is background.
- From instances to label maps (``Joint.paint``), of which neither says a word: a pixel is of the surest detection whose
  mask, pasted into its box, is above 0.5 there. The joint map has the pair of the largest product of the two heads'
  scores among those that can occur, the other maps the likeliest class of each head but background.
- Frames are learned as squares of the height of A2D's; the released code shrinks frames to a longest side of 256.
- Norms of the appearance stream keep COCO's statistics, as Mask R-CNN's fine-tuning has it; those of the flow stream
  adapt, because flow has not the statistics of pictures. The released code fixes all of them.

Parameters: SSA2D's paper says 44 M for RGB and 88 M for RGB + flow, which is what one or two ResNet-101s alone have
(42.5 M each). Ours are 77.5 M and 136.9 M: a Mask R-CNN has 20.3 M beside its ResNet-101 (13.9 M of them in the two
layers behind 7 x 7 cells, 3.3 M in the pyramid), the action head 13.9 M, the temporal convolutions 0.8 M; a second
stream adds a ResNet-101, a pyramid, temporal convolutions, and 12.8 M in the action head's first layer. The stem and
first stage of the appearance stream, 0.2 M, don't learn.

Axes: B windows, T frames of a window, M streams, N actors of a frame, R RoIs or detections, K classes (background
first), P valid pairs with background, C channels of a pyramid, H, W frame, h, w map.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from mmdet import models as mmdet
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE
from models.base import SINGLE_FRAME, Labels, Predictions, Window, finite
from models.parts import detection, maskrcnn
from models.parts.maskrcnn import DIVISOR, POOLED, Maps
from models.parts.network import Training, split_parameters
from models.parts.region_to_pixel import region_to_pixel
from models.parts.region_types import Detections, InstanceBatch, RegionBatch

THREE_FRAMES = Window(before=1, after=1)
LEVELS = 4
"""Of the pyramid that RoIs are pooled from: strides 4 to 32 (section 3.1)."""
PARTS = {"rpn_cls": "rpn_cls", "rpn_bbox": "rpn_bbox", "cls": "actor", "bbox": "box", "mask": "mask"}
"""Part of Mask R-CNN's loss -> its name here."""


@dataclass(frozen=True)
class Config:
    """Sizes of the network and how it is trained."""

    streams: tuple[str, ...] = ("rgb", "flow")  # rgb, and flow or not
    # Of actors, and of both streams. Anchors are half as large as for the 800 rows of COCO's pictures; RoIs a frame
    # and what counts as an actor are the released code's.
    detector: maskrcnn.Config = field(
        default=replace(maskrcnn.paper, scale=None, anchor=4, rois=64, score_threshold=0.7, nms=0.3)
    )
    temporal_layers: int = 1  # of 3 x 1 x 1 convolutions, a level
    fusion: str = "mid"  # mid concatenates the streams' pyramids, late averages the probabilities of their own heads
    rois_from_both: bool = False  # the RPN sees flow too
    joint_space: bool = False  # one head over the valid pairs in place of one for actors and one for actions
    action_threshold: float = 0.3  # detector.score_threshold is the actor's
    loss_weights: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("rpn_cls", "rpn_bbox", "actor", "box", "action", "mask", "pair"), 1.0)
    )
    height: int | None = None  # frames are resized to this height first; None: as they are
    crop: tuple[int, int] | None = (320, 320)
    window: Window = THREE_FRAMES
    flow_encoding: str = "magnitude"
    training: Training = field(
        # One rate, as the paper has it; 12 epochs of A2D's 9,561 training frames, as in mmdet's "1x". Batch and norm of
        # gradients are the released code's.
        default=Training(
            steps=14_342,
            batch=8,
            learning_rates={"encoder": 2e-4, "head": 2e-4},
            optimiser="sgd",
            schedule="step:0:1",
            weight_decay=0.0,
            clip_norm=5.0,
        )
    )

    def __post_init__(self) -> None:
        if self.fusion not in {"mid", "late"}:
            raise ValueError(f"joint: fusion `{self.fusion}` is neither `mid` nor `late`")
        if (self.fusion == "late" or self.rois_from_both) and "flow" not in self.streams:
            variant = "late_fusion" if self.fusion == "late" else "rois_from_both"
            raise ValueError(f"joint: {variant} needs two streams: run it with rgb+flow")
        if min(self.window.before, self.window.after) < self.temporal_layers:
            raise ValueError(f"joint: {self.temporal_layers} temporal convolutions see as many frames before and after")
        assert self.detector.scale is None, "frames are resized by `height`, with their flow"

    @property
    def mask_threshold(self) -> float:
        """A pixel of a detection is the actor's where its soft mask is above it."""
        return self.detector.mask_threshold


paper = Config()
small = Config(
    detector=replace(maskrcnn.small, score_threshold=0.3, nms=0.3),
    action_threshold=0.0,
    height=128,
    crop=(128, 128),
    training=Training(
        steps=500,
        batch=4,
        learning_rates={"encoder": 1e-3, "head": 2e-3},
        optimiser="adam",
        schedule="cosine",
    ),
)


def with_inputs(config: Config, inputs: str) -> Config:
    """The configuration for ``rgb`` or ``rgb+flow``. Raises ``ValueError`` for ``flow`` alone."""
    streams = tuple(inputs.split("+"))
    if "rgb" not in streams:
        raise ValueError("joint: actors are found by their appearance (section 3.1): run it with rgb or rgb+flow")
    return replace(config, streams=streams)


VARIANTS: dict[str, Callable[[Config], Config]] = {
    # Section 3.2, temporal aggregation: the action is that of the labelled frame alone
    "without_temporal": lambda config: replace(config, temporal_layers=0, window=SINGLE_FRAME),
    # Section 3.2: "late fusion in standard action recognition approaches [...] does not work well"; section 2.2: "of
    # the outputs of individual networks [...] trained separately". So each stream has a head and a loss of its own: one
    # loss of averaged probabilities leaves flow nothing to learn where appearance knows its clips by heart.
    "late_fusion": lambda config: replace(config, fusion="late"),
    # Section 3.1: "we only use the feature maps output by appearance model to generate RoIs", unlike Kalogeiton et al.
    "rois_from_both": lambda config: replace(config, rois_from_both=True),
    # Section 3, philosophy (1): actor and action have heads of their own. A head over pairs sees what the action head
    # sees; scores of actors and actions are its marginals. It can't learn an actor whose action nobody told.
    "joint_space": lambda config: replace(config, joint_space=True),
}
"""Name of a run's variant -> the configuration it makes of the plain one."""


def build(config: Config, labels: Labels) -> "Joint":
    """The network of ``config`` for the classes of ``labels``."""
    return Joint(config, labels)


class FlowStream(nn.Module):
    """Section 3.2: the mirrored residual network and its pyramid, for u, v and magnitude."""

    def __init__(self, config: maskrcnn.Config) -> None:
        super().__init__()
        self.backbone = detection.Backbone(config.encoder, fixed=False)
        self.neck = mmdet.FPN(**maskrcnn.pyramid(config))
        for layer in self.neck.modules():
            if isinstance(layer, nn.Conv2d):  # as the neck's own `init_weights`, which would log it
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Maps:
        """(B, 3, h, w) to the levels of the pyramid, finest first."""
        return tuple(level.contiguous() for level in self.neck(self.backbone(x)))


class Pyramids(NamedTuple):
    """What of a window's labelled frame is pooled from or searched, finest level first: (B, ., h, w) each."""

    appearance: Maps  # C channels
    searched: Maps  # by the RPN: the appearance, or with `rois_from_both` both streams
    action: Maps  # M * C channels, of four levels: the streams after temporal aggregation


class Joint(nn.Module):
    """Mask R-CNN for actors, flow stream, temporal aggregation, action head."""

    pairs: Tensor  # (2, P - 1) actor and action of each valid pair
    targets: Tensor  # (K_actor, K_action) class of the action head; IGNORE where the pair cannot occur
    marginals: Tensor  # (P, K_actor + K_action) 1 for the actor and the action of each pair

    def __init__(self, config: Config, labels: Labels) -> None:
        super().__init__()
        self.config = config
        self.actors = labels.actors
        self.stride = labels.stride
        channels, streams = config.detector.channels, len(config.streams)
        self.detector = maskrcnn.Detector(
            config.detector,
            classes=len(labels.actors) - 1,
            rpn_streams=streams if config.rois_from_both else 1,
            classifies=not config.joint_space,
        )
        self.flow = FlowStream(config.detector) if "flow" in config.streams else None
        self.temporal = nn.ModuleDict(
            {
                stream: nn.ModuleList(_temporal(channels, layers=config.temporal_layers) for _ in range(LEVELS))
                for stream in config.streams
            }
        )
        extractor = maskrcnn.extractor(config.detector, side=POOLED, channels=channels * streams)
        self.roi_align_an = mmdet.SingleRoIExtractor(**extractor)
        heads = streams if config.fusion == "late" else 1
        classes = len(labels.valid_ids) if config.joint_space else len(labels.actions)
        self.heads = nn.ModuleList(
            _classifier(channels * streams // heads, classes, hidden=config.detector.hidden) for _ in range(heads)
        )
        pairs = [divmod(pair, labels.stride) for pair in labels.valid_ids]
        who, does = (torch.tensor(part) for part in zip(*pairs, strict=True))  # (P,) each
        targets = torch.full((len(labels.actors), len(labels.actions)), IGNORE)
        targets[who, does] = torch.arange(len(pairs)) if config.joint_space else does
        marginals = torch.cat([F.one_hot(who, len(labels.actors)), F.one_hot(does, len(labels.actions))], dim=1)
        self.register_buffer("pairs", torch.stack([who, does])[:, 1:], persistent=False)
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("marginals", marginals.float(), persistent=False)

    def loss(self, batch: InstanceBatch) -> dict[str, Tensor]:
        """Equation 1: of the RPN, actor, box, action (in a joint space: pair, for actor and action) and mask.

        Raises ``ValueError`` as ``detection.ground_truth``, and for an action that is none.
        """
        maps, meta = self._pyramids(batch["frames"], batch.get("flow"))
        labelled = RegionBatch(
            frames=batch["frames"][:, self.config.window.before],
            boxes=batch["boxes"],
            labels=batch["labels"],
            masks=batch["masks"],
        )
        truth = detection.ground_truth(labelled, meta, classes=len(self.actors))
        found, sampled = self.detector.losses(maps.appearance, truth, meta, rpn_maps=maps.searched)
        instances = zip(batch["labels"], batch["actions"], sampled, strict=True)
        targets = torch.cat([self._targets(labels, actions, rois) for labels, actions, rois in instances])
        scores = self._recognise(maps.action, bbox2roi([rois.priors for rois in sampled]))
        # Of late fusion each stream has scores of its own, and their losses add up: none learns through the other's.
        wrong = sum(F.nll_loss(of_head, targets, ignore_index=IGNORE, reduction="sum") for of_head in scores)
        action = wrong / (targets != IGNORE).sum().clamp(1)
        losses = {name: found[part] for part, name in PARTS.items() if part in found}
        losses["pair" if self.config.joint_space else "action"] = action
        total = torch.stack([self.config.loss_weights[name] * value for name, value in losses.items()]).sum()
        return {"loss": total, **losses}

    @torch.no_grad()
    def predict(self, batch: InstanceBatch) -> Predictions:
        """Label maps at the labelled frame (``window.before``) at the resolution of the frames."""
        height, width = batch["frames"].shape[2:4]
        return self.paint(self.detect(batch), (height, width))

    @torch.no_grad()
    def detect(self, batch: InstanceBatch) -> list[Detections]:
        """What is found in the labelled frame of each window; one by one, so that it is the same in any batch."""
        frames, flow = batch["frames"].split(1), batch.get("flow")
        flows = [None] * len(frames) if flow is None else flow.split(1)
        return [self._detections(*window) for window in zip(frames, flows, strict=True)]

    @torch.no_grad()
    def paint(self, detections: list[Detections], shape: tuple[int, int]) -> Predictions:
        """Label maps (B, H, W) of frames of ``shape`` (H, W): the surest detection lies on top, 0 is where none is."""
        return Predictions(*torch.stack([self._painted(found, shape) for found in detections]).unbind(1))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The residual networks and the rest, without what does not learn."""
        encoder, head = split_parameters(self, self.encoder_slots().values())
        return {"encoder": encoder, "head": head}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """Encoders that start from pretrained weights: name of the weights -> module."""
        return {"rgb2d": self.detector.backbone} | ({} if self.flow is None else {"flow2d": self.flow.backbone})

    def load_coco(self, checkpoint: dict[str, Any], *, where: str) -> None:
        """Load mmdet's checkpoint of COCO into the appearance stream, the RPN and the heads for actor, box and mask.

        Flow stream, temporal convolutions and action head stay as they are (section 4); an RPN that sees flow takes
        no notice of it at first. Raises ``ValueError`` as ``maskrcnn.Detector.load_coco``.
        """
        weights = dict(checkpoint.get("state_dict", checkpoint))
        first = "rpn_head.rpn_conv.weight"
        if self.config.rois_from_both and first in weights:
            weights[first] = F.pad(weights[first], (0, 0, 0, 0, 0, self.config.detector.channels))
        self.detector.load_coco(weights, classes=self.actors[1:], where=where)

    def _pyramids(self, frames: Tensor, flow: Tensor | None) -> tuple[Pyramids, dict[str, Any]]:
        """Pyramids of the labelled frame, and what mmdet wants to know of the frames."""
        before, reach, length = self.config.window.before, self.config.temporal_layers, self.config.window.length
        assert frames.shape[1] == length, f"{frames.shape[1]} frames where the window has {length}"
        seen = slice(before - reach, before + reach + 1)  # the S of the T frames that reach the labelled one
        # (B, T, H, W, 3) to (B * S, H, W, 3)
        inputs, meta = detection.network_input(frames[:, seen].flatten(0, 1), scale=None, divisor=DIVISOR)
        streams = {"rgb": self.detector.extract_feat(inputs)}
        if self.flow is not None:
            assert flow is not None, "two streams need optical flow"
            fields = flow[:, seen].flatten(0, 1).permute(0, 3, 1, 2)  # (B, T, H, W, 3) to (B * S, 3, H, W)
            (height, width), (full_height, full_width) = fields.shape[2:], meta["pad_shape"]
            streams["flow"] = self.flow(F.pad(fields, (0, full_width - width, 0, full_height - height)))
        windows = {
            name: [level.unflatten(0, (-1, 2 * reach + 1)).transpose(1, 2) for level in maps]
            for name, maps in streams.items()
        }  # (B, C, S, h, w) each
        labelled = [tuple(level[:, :, reach].contiguous() for level in maps) for maps in windows.values()]
        action = []
        for level in range(LEVELS):
            gathered = [layers[level](windows[name][level]) for name, layers in self.temporal.items()]  # type: ignore[index]
            action.append(torch.cat(gathered, dim=1)[:, :, 0].contiguous())  # (B, M * C, 1, h, w) -> (B, M * C, h, w)
        searched = labelled[0]
        if self.config.rois_from_both:
            searched = tuple(torch.cat(levels, dim=1) for levels in zip(*labelled, strict=True))
        return Pyramids(labelled[0], searched, tuple(action)), meta

    def _recognise(self, maps: Maps, rois: Tensor) -> Tensor:
        """Log-probabilities (1, R, K) of the action head; (M, R, K) where each stream has its own (late fusion)."""
        pooled = self.roi_align_an(maps, rois).chunk(len(self.heads), dim=1)  # (R, M * C, 7, 7), or M of (R, C, 7, 7)
        return torch.stack([head(x).log_softmax(1) for head, x in zip(self.heads, pooled, strict=True)])

    def _targets(self, labels: Tensor, actions: Tensor, rois: Any) -> Tensor:
        """Class of the action head for each of the RoIs sampled of one frame, (R,); IGNORE where there is none."""
        told = actions != IGNORE
        count = self.targets.shape[1]
        if not ((actions > 0) & (actions < count) | ~told).all():
            raise ValueError(f"actions {actions.tolist()}: write 1 to {count - 1}, or {IGNORE} where nobody told")
        targets = torch.where(told, self.targets[labels, actions.where(told, 0)], IGNORE)  # (N,)
        return F.pad(targets[rois.pos_assigned_gt_inds], (0, len(rois.neg_priors)))  # positive RoIs come first

    def _detections(self, frames: Tensor, flow: Tensor | None) -> Detections:
        """Detections in one window (B = 1)."""
        config, detector = self.config.detector, self.detector
        maps, meta = self._pyramids(frames, flow)
        rois = detector.propose(maps.searched, meta)  # (R, 5)
        actors, deltas = detector.classify(maps.appearance, rois)
        actions = self._recognise(maps.action, rois).exp().mean(0)
        if actors is None:
            marginals = actions @ self.marginals  # (R, P) -> (R, K_actor + K_action)
            actors, actions = marginals.split((len(self.actors), self.targets.shape[1]), dim=1)
        likeliest = finite(actors, "scores of actors")[:, 1:].max(1).indices  # as mmdet counts them, without background
        possible = (self.targets[likeliest + 1] != IGNORE) * finite(actions, "scores of actions")  # (R, K_action)
        certain = (possible.max(1).values > self.config.action_threshold).nonzero()[:, 0]
        boxes = detector.refine(rois, deltas, likeliest, meta)
        kept = certain[
            detection.best_regions(
                boxes[certain], actors[certain], threshold=config.score_threshold, iou=config.nms, most=config.regions
            )
        ]
        return Detections(
            boxes=boxes[kept],
            scores=actors[kept, 1:].max(1).values,
            actor_scores=actors[kept],
            action_scores=actions[kept],
            soft_masks=detector.soft_masks(maps.appearance, boxes[kept], likeliest[kept]),
        )

    def _painted(self, found: Detections, shape: tuple[int, int]) -> Tensor:
        """Joint, actor and action map (3, H, W) uint8 of one frame."""
        who, does = self.pairs  # (P - 1,) each, without background
        best = (found.actor_scores[:, who] * found.action_scores[:, does]).max(1).indices  # (R, P - 1) -> (R,)
        actor, action = (scores[:, 1:].max(1).indices + 1 for scores in (found.actor_scores, found.action_scores))
        labels = torch.stack([who[best] * self.stride + does[best], actor, action], dim=1).byte()  # (R, 3)
        painted = labels.new_zeros(3, *shape)
        one = found.scores.new_ones(1, 1)
        for region in reversed(range(len(labels))):  # the surest last
            box, soft_mask = found.boxes[region : region + 1], found.soft_masks[region : region + 1]
            [pasted] = region_to_pixel(box, soft_mask, one, shape=shape)  # (H, W)
            painted[:, pasted > self.config.mask_threshold] = labels[region, :, None]
        return painted


def _temporal(channels: int, *, layers: int) -> nn.Sequential:
    """(B, C, S, h, w) to (B, C, 1, h, w), S = 2 * ``layers`` + 1."""
    return nn.Sequential(*(nn.Conv3d(channels, channels, (3, 1, 1)) for _ in range(layers)))


def _classifier(inputs: int, classes: int, *, hidden: int) -> nn.Sequential:
    """RoIs (R, C, 7, 7) to logits (R, K). The first layer is the released code's 7 x 7 convolution on 7 x 7 cells."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs * POOLED**2, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, classes),
    )
