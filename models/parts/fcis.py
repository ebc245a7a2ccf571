"""FCIS (Li et al. 2017, "Fully Convolutional Instance-aware Semantic Segmentation", arXiv 1611.07709); mmdet lacks it.

Section 3: every class has two sets of 7 x 7 position-sensitive score maps, one for pixels inside an instance, one for
pixels outside. A RoI is assembled from them in 21 x 21 cells (``position_sensitive_pool``), without any weights of its
own; both the class (the larger of the two scores of a cell, averaged over the cells, softmax over classes) and the mask
(softmax of the two scores of the class) are read off them. Boxes are refined from class-agnostic maps. Numbers that the
paper leaves out are those of the authors' configuration for VOC (msracver/FCIS), whose ImageNet weights were Caffe's:
here they are torchvision's. RPN, matching, sampling, box deltas and NMS are mmdet's and mmcv's.

Prediction: the proposals and the boxes refined from them are both scored; what NMS keeps gets the mask that the RoIs
around it vote for (``vote``).

Axes: B frames, N instances, R regions or RoIs, K classes (background first), G 7 groups and S 21 cells along a side,
V votes, C channels, H, W frame, h, w map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.task_modules import DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler
from mmdet.structures.bbox import bbox2roi, bbox_overlaps
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import finite
from models.parts import detection, resnet
from models.parts.network import Encoder, Training, load_encoder, split_parameters
from models.parts.region_types import MASK_SIDE, RegionBatch, Regions

GROUPS = 7
CELLS = 21
BOX_CHANNELS = 8  # deltas of background and foreground; only those of foreground are used
MASK_WEIGHT = 10.0
VOTE_IOU = 0.5
RESNET101 = replace(resnet.RESNET101, stride=16)


@dataclass(frozen=True)
class Config:
    """Sizes of one FCIS and how it is trained."""

    encoder: resnet.Config = RESNET101  # its fourth stage is dilated, not strided; the RPN is on the third
    fixed: bool = True  # see detection.Backbone
    scale: tuple[int, int] | None = (600, 1000)  # shorter and longer side of the frames; None: as they are
    channels: int = 1024  # of the 1 x 1 convolution before the score maps
    rpn_channels: int = 512
    anchors: tuple[float, ...] = (8, 16, 32)  # sides over stride; each in ratios 1:2, 1:1, 2:1
    border: int = 0  # pixels that an anchor may lie outside the frame to be learned from; -1: any
    smallest: int = 16  # pixels; side of a proposal
    candidates: int = 6000  # anchors before NMS
    proposals: int = 300
    rois: int = 128  # of a frame, in training
    background: tuple[float, float] = (0.1, 0.5)  # IoU with an instance, from and below
    mask_threshold: float = 0.4  # on the truth of a cell; on soft masks, where a mask is wanted
    vote_threshold: float | None = None  # None: probabilities vote (the paper); 0.4: each binarised first (the code)
    score_threshold: float = 1e-3
    nms: float = 0.3
    regions: int = 100  # of a frame, at most
    training: Training = field(
        # 22 epochs, a tenth of the rate from the 15th, of A2D's 9,561 training frames in place of VOC's
        default=Training(
            steps=210_342,
            batch=1,
            learning_rates={"encoder": 5e-4, "head": 5e-4},
            schedule="step:133854:0.1",
        )
    )


paper = Config()
small = Config(
    encoder=resnet.SMALL,
    fixed=False,
    scale=None,
    channels=96,
    rpn_channels=96,
    anchors=(3, 6, 12),
    border=-1,
    smallest=0,
    candidates=600,
    proposals=100,
    rois=64,
    background=(0.0, 0.5),
    score_threshold=0.05,
    training=Training(
        steps=500,
        batch=4,
        learning_rates={"encoder": 1e-3, "head": 4e-3},
        optimiser="adam",
        schedule="cosine",
    ),
)


def build(config: Config, labels: Sequence[str], *, learned: Sequence[str] | None = None) -> "FCIS":
    """The network of ``config`` that reports ``labels`` (background first).

    ``learned``: the classes that it has, where they are others, as ``detection.COCO``.
    """
    return FCIS(config, labels, learned=learned or labels)


class FCIS(Encoder):
    """Backbone, RPN on its third stage, score maps on its fourth."""

    beyond = ()

    def __init__(self, config: Config, labels: Sequence[str], *, learned: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.learned = tuple(learned)
        self.reported = detection.reported_classes(learned, labels)
        stages = detection.stage_channels(config.encoder)
        self.encoder = detection.Backbone(config.encoder, fixed=config.fixed)
        self.rpn = _rpn(config, stages[2])
        self.reduce = nn.Conv2d(stages[3], config.channels, 1)
        self.score_maps = nn.Conv2d(config.channels, len(learned) * 2 * GROUPS**2, 1)
        self.box_maps = nn.Conv2d(config.channels, BOX_CHANNELS * GROUPS**2, 1)
        self.coder = DeltaXYWHBBoxCoder(target_stds=(0.2, 0.2, 0.5, 0.5))
        low, high = config.background
        self.assigner = MaxIoUAssigner(pos_iou_thr=high, neg_iou_thr=(low, high), match_low_quality=False)
        self.sampler = RandomSampler(num=config.rois, pos_fraction=0.25)
        for layer in (*self.rpn.modules(), self.score_maps, self.box_maps):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[tuple[list[Tensor], list[Tensor]], Tensor]:
        """Frames (B, 3, h', w') to the RPN's scores and deltas, and maps (B, (2 K + 8) * G * G, h, w)."""
        *_, third, fourth = self.encoder(x)
        reduced = F.relu(self.reduce(fourth))
        return self.rpn((third,)), torch.cat([self.score_maps(reduced), self.box_maps(reduced)], dim=1)

    def assemble(self, maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """RoIs (R, 5: frame, x1, y1, x2, y2) to scores (R, K), outside and inside (R, K, 2, S, S), deltas (R, 4)."""
        cells = position_sensitive_pool(maps, rois, stride=self.config.encoder.stride)
        masks = cells[:, :-BOX_CHANNELS].unflatten(1, (-1, 2))  # (R, 2 K, S, S) -> (R, K, 2, S, S)
        deltas = cells[:, -4:].mean((2, 3))
        return masks.amax(2).mean((2, 3)), masks, deltas

    def loss(self, batch: RegionBatch) -> dict[str, Tensor]:
        """RPN, class, mask and box losses and their sum. Raises ``ValueError`` as ``detection.ground_truth``."""
        inputs, meta = self._input(batch["frames"])
        truth = detection.ground_truth(batch, meta, classes=len(self.learned))
        anchors, maps = self(inputs)
        objects = [InstanceData(bboxes=seen.bboxes, labels=torch.zeros_like(seen.labels)) for seen in truth]
        rpn = self.rpn.loss_by_feat(*anchors, objects, [meta] * len(truth))
        sampled = [
            self._sample(proposals, seen) for proposals, seen in zip(self._propose(anchors, meta), truth, strict=True)
        ]
        scores, masks, deltas = self.assemble(maps, bbox2roi([rois.priors for rois in sampled]))
        labels = torch.cat([F.pad(rois.pos_gt_labels + 1, (0, len(rois.neg_priors))) for rois in sampled])
        positive = labels.nonzero()[:, 0]
        goals = torch.cat([self.coder.encode(rois.pos_priors, rois.pos_gt_bboxes) for rois in sampled])
        inside = torch.cat([self._mask_truth(rois, seen) for rois, seen in zip(sampled, truth, strict=True)])
        cells, count = max(1, inside.numel()), max(1, len(labels))  # sums over none are 0 and still have a gradient
        losses = {
            "rpn_class": sum(rpn["loss_rpn_cls"]),
            "rpn_box": sum(rpn["loss_rpn_bbox"]),
            "class": F.cross_entropy(scores, labels, reduction="sum") / count,
            "mask": F.cross_entropy(masks[positive, labels[positive]], inside, reduction="sum") / cells,
            "box": F.smooth_l1_loss(deltas[positive], goals, reduction="sum") / count,
        }
        weighted = (loss * MASK_WEIGHT if name == "mask" else loss for name, loss in losses.items())
        return {"loss": torch.stack(list(weighted)).sum(), **losses}

    @torch.no_grad()
    def predict(self, frames: Tensor) -> list[Regions]:
        """Regions of each of the frames (B, H, W, 3) uint8; one by one, so that they are the same in any batch."""
        return [self._regions(frame[None]) for frame in frames]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The residual network and the rest, without what does not learn."""
        encoder, head = split_parameters(self, self.encoder_slots().values())
        return {"encoder": encoder, "head": head}

    def encoder_slots(self) -> dict[str, nn.Module]:
        """Encoders that start from pretrained weights: name of the weights -> module."""
        return {"rgb2d": self.encoder}

    def load_coco(self, checkpoint: dict[str, Any], *, where: str) -> None:
        """Load an FCIS of this module that was trained on COCO (``build(paper, detection.COCO)``), its state dict.

        Score maps of classes that COCO has not are those of the kind they start from (``detection.STARTS_FROM``).
        Raises ``ValueError`` where a class starts from none or the keys do not fit.
        """
        weights = dict(checkpoint.get("state_dict", checkpoint))
        rows, each = torch.tensor([0, *detection.coco_classes(self.learned[1:])]), 2 * GROUPS**2
        for key in ("score_maps.weight", "score_maps.bias"):
            if key in weights and len(weights[key]) == len(detection.COCO) * each:
                weights[key] = weights[key].unflatten(0, (-1, each))[rows].flatten(0, 1)
        load_encoder(self, weights, where=where)

    def _input(self, frames: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return detection.network_input(frames, scale=self.config.scale, divisor=self.config.encoder.stride)

    @torch.no_grad()
    def _propose(self, anchors: tuple[list[Tensor], list[Tensor]], meta: dict[str, Any]) -> list[Tensor]:
        """Proposals (R, 4) of each frame, best first."""
        found = self.rpn.predict_by_feat(*anchors, batch_img_metas=[meta] * len(anchors[0][0]))
        return [proposals.bboxes for proposals in found]

    def _sample(self, proposals: Tensor, truth: InstanceData) -> Any:
        """mmdet's choice of RoIs to learn from, of the proposals and the true boxes of one frame."""
        rois = InstanceData(priors=proposals)
        return self.sampler.sample(self.assigner.assign(rois, truth), rois, truth)

    def _mask_truth(self, rois: Any, truth: InstanceData) -> Tensor:
        """Cells of the positive RoIs of one frame that lie inside the instance: (R, S, S) int64 of 0 and 1."""
        cells = truth.masks.crop_and_resize(
            rois.pos_priors, (CELLS, CELLS), rois.pos_assigned_gt_inds, device=rois.pos_priors.device, binarize=False
        )
        share = torch.from_numpy(cells.to_ndarray()).to(rois.pos_priors.device)
        return (share.view(-1, CELLS, CELLS) >= self.config.mask_threshold).long()

    def _regions(self, frame: Tensor) -> Regions:
        """Regions of one frame (1, H, W, 3)."""
        config = self.config
        inputs, meta = self._input(frame)
        anchors, maps = self(inputs)
        for level in (level for levels in anchors for level in levels):
            finite(level, "scores or offsets of anchors")  # mmdet drops such anchors, and nothing would be found
        [proposals] = self._propose(anchors, meta)
        scores, masks, deltas = self.assemble(maps, bbox2roi([proposals]))
        refined = self.coder.decode(proposals, deltas, max_shape=meta["img_shape"])
        again = self.assemble(maps, bbox2roi([refined]))
        class_scores = detection.reported_scores(torch.cat([scores, again[0]]).softmax(1), self.reported)
        probabilities = finite(torch.cat([masks, again[1]]), "masks").softmax(2)[:, :, 1]  # (R, K learned, S, S)
        boxes = torch.cat([proposals, refined]) / proposals.new_tensor(meta["scale_factor"] * 2)
        kept = detection.best_regions(
            boxes, class_scores, threshold=config.score_threshold, iou=config.nms, most=config.regions
        )
        if not len(kept):
            return detection.no_regions(frame, classes=len(self.reported) + 1)
        best = class_scores[kept, 1:].max(1)
        voted = vote(
            boxes,
            probabilities[:, self.reported],
            class_scores[:, 1:],
            kept,
            best.indices,
            threshold=config.vote_threshold,
        )
        return Regions(boxes=boxes[kept], scores=best.values, class_scores=class_scores[kept], soft_masks=voted)


def position_sensitive_pool(maps: Tensor, rois: Tensor, *, stride: int) -> Tensor:
    """Cells (R, C, S, S) of RoIs (R, 5: frame, x1, y1, x2, y2, in pixels) from maps (B, C * G * G, h, w).

    Cell (i, j) is the mean of the map of group (i * G // S, j * G // S) over the pixels that it touches. RoIs are
    rounded to whole pixels of the frame, at least one. Sums over rectangles come from an integral image, in double
    precision, because what is subtracted there is large; edges are whole numbers of 1 / (S * stride), hence exact.
    """
    height, width = maps.shape[2:]
    by_place = maps.unflatten(1, (-1, GROUPS**2)).permute(0, 3, 4, 2, 1).double()  # (B, h, w, G * G, C)
    table = F.pad(by_place.cumsum(1).cumsum(2), (0, 0, 0, 0, 1, 0, 1, 0))  # (B, h + 1, w + 1, G * G, C)
    left, right = _edges(rois[:, 1], rois[:, 3], stride=stride, limit=width)  # (R, S)
    top, bottom = _edges(rois[:, 2], rois[:, 4], stride=stride, limit=height)
    group = torch.arange(CELLS, device=rois.device) * GROUPS // CELLS
    first = rois[:, 0].long()[:, None, None]

    def entry(y: Tensor, x: Tensor) -> Tensor:
        """Rows of the table (R, S, S)."""
        place = (first * (height + 1) + y[:, :, None]) * (width + 1) + x[:, None]
        return (place * GROUPS + group[:, None]) * GROUPS + group

    corners = torch.stack([entry(bottom, right), entry(top, right), entry(bottom, left), entry(top, left)], dim=-1)
    area = (bottom - top)[:, :, None] * (right - left)[:, None]  # (R, S, S)
    signs = table.new_tensor([1, -1, -1, 1]) / area.clamp(min=1)[..., None]
    cells = F.embedding_bag(
        corners.view(-1, 4), table.flatten(0, 3), mode="sum", per_sample_weights=signs.view(-1, 4)
    )  # (R * S * S, C)
    return cells.view(len(rois), CELLS, CELLS, table.shape[-1]).permute(0, 3, 1, 2).to(maps.dtype)


def vote(
    boxes: Tensor, masks: Tensor, scores: Tensor, kept: Tensor, classes: Tensor, *, threshold: float | None
) -> Tensor:
    """Soft masks (P, 28, 28) of the P regions ``kept`` (indices), which are of ``classes`` (P,).

    Every RoI whose box (R, 4) overlaps the region's with an IoU of at least 0.5, its own included, votes with its mask
    (R, K, S, S) of the region's class, weighted by its score (R, K) of that class; outside its box it votes 0.
    ``threshold``: a vote is 1 or 0 instead of a probability.
    """
    region, voter = (bbox_overlaps(boxes[kept], boxes) >= VOTE_IOU).nonzero(as_tuple=True)  # (V,) each
    centres = (torch.arange(MASK_SIDE, device=boxes.device) + 0.5) / MASK_SIDE
    low, high = boxes[kept[region], :2, None], boxes[kept[region], 2:, None]
    points = low + (high - low) * centres  # (V, 2, 28): x and y of the centres of the region's parts
    low, high = boxes[voter, :2, None], boxes[voter, 2:, None]
    x, y = ((points - low) / (high - low) * 2 - 1).unbind(1)  # from -1 to 1 across the voter's box
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), dim=-1)  # (V, 28, 28, 2)
    votes = F.grid_sample(masks[voter, classes[region]][:, None], grid, padding_mode="border", align_corners=False)[
        :, 0
    ]
    if threshold is not None:
        votes = (votes >= threshold).to(votes.dtype)
    weights = scores[voter, classes[region]][:, None, None]
    votes = votes * (grid.abs() <= 1).all(-1) * weights
    total = votes.new_zeros(len(kept), MASK_SIDE, MASK_SIDE).index_add_(0, region, votes)
    return total / votes.new_zeros(len(kept), 1, 1).index_add_(0, region, weights)


def _edges(start: Tensor, end: Tensor, *, stride: int, limit: int) -> tuple[Tensor, Tensor]:
    """First map pixel and the one after the last of each cell along an axis: (R, S) each, for RoIs in pixels."""
    start, end = start.round().long()[:, None], end.round().long()[:, None]
    length = (end - start).clamp(min=1)
    cell = torch.arange(CELLS, device=start.device)
    unit = CELLS * stride
    first = (start * CELLS + cell * length).div(unit, rounding_mode="floor")
    after = -(-(start * CELLS + (cell + 1) * length)).div(unit, rounding_mode="floor")
    return first.clamp(0, limit), after.clamp(0, limit)


def _rpn(config: Config, channels: int) -> RPNHead:
    """mmdet's RPN as in Faster R-CNN: two-way softmax, smooth L1 that turns linear at 1 / 9, 256 anchors a frame."""
    proposal = {
        "nms_pre": config.candidates,
        "max_per_img": config.proposals,
        "nms": {"type": "nms", "iou_threshold": 0.7},
        "min_bbox_size": config.smallest,
    }
    return RPNHead(
        in_channels=channels,
        feat_channels=config.rpn_channels,
        anchor_generator={
            "type": "AnchorGenerator",
            "strides": [config.encoder.stride],
            "scales": config.anchors,
            "ratios": [0.5, 1.0, 2.0],
            "center_offset": 0.5,
        },
        bbox_coder={"type": "DeltaXYWHBBoxCoder"},
        loss_cls={"type": "CrossEntropyLoss", "use_sigmoid": False},
        loss_bbox={"type": "SmoothL1Loss", "beta": 1 / 9},
        train_cfg=ConfigDict(
            assigner={"type": "MaxIoUAssigner", "pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
            sampler={"type": "RandomSampler", "num": 256, "pos_fraction": 0.5, "add_gt_as_proposals": False},
            allowed_border=config.border,
            pos_weight=-1,
        ),
        test_cfg=ConfigDict(proposal),
    )
