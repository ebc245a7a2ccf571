"""Mask R-CNN (He et al. 2017, "Mask R-CNN", arXiv 1703.06870) on feature pyramids, of mmdet's modules.

Section 3: Faster R-CNN with a mask branch beside class and box, RoIAlign, binary cross-entropy of the mask of the true
class. Sizes, losses and sampling of ``paper`` are those of mmdet's mask-rcnn_r101_fpn_1x_coco.py, and so are its keys:
its COCO checkpoint loads.

One difference from mmdet's prediction: a region is of its best class only, so each RoI gives one region at most.

Axes: B frames, R regions or RoIs, K classes (background first), H, W frame, h, w frame as the network sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from mmdet import models as mmdet
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from models.base import finite
from models.parts import detection, resnet
from models.parts.network import Encoder, Training, load_encoder, split_parameters
from models.parts.region_types import MASK_SIDE, RegionBatch, Regions

RESNET101 = replace(resnet.RESNET101, stride=32)
DIVISOR = 32
"""Frames are filled up to a multiple of it: the stride of the backbone's coarsest map."""
POOLED = 7
"""Rows and columns of cells that a RoI is pooled to, to be classified."""
Maps = tuple[Tensor, ...]
"""Of one pyramid, finest first: (B, C, h, w) each, in memory with channels first, as mmcv's RoIAlign reads them."""


@dataclass(frozen=True)
class Config:
    """Sizes of one Mask R-CNN and how it is trained."""

    encoder: resnet.Config = RESNET101
    fixed: bool = True  # see detection.Backbone
    scale: tuple[int, int] | None = (800, 1333)  # shorter and longer side of the frames; None: as they are
    channels: int = 256  # of the pyramid, the RPN and the mask branch
    levels: int = 5  # of the pyramid, from stride 4; the four finest are pooled from
    hidden: int = 1024  # of the two fully connected layers
    mask_layers: int = 4
    anchor: int = 8  # side over stride
    finest: int = 56  # pixels; RoIs smaller than twice that are pooled from the finest level
    candidates: tuple[int, int] = (2000, 1000)  # anchors per level before NMS, in training and prediction
    proposals: int = 1000
    rois: int = 512  # of a frame, in training
    score_threshold: float = 0.05
    nms: float = 0.5
    regions: int = 100  # of a frame, at most
    mask_threshold: float = 0.5  # on soft masks, where a mask is wanted
    training: Training = field(
        # mmdet's "1x" schedule, 12 epochs of A2D's 9,561 training frames in place of COCO's
        default=Training(
            steps=7_176,
            batch=16,
            learning_rates={"encoder": 0.02, "head": 0.02},
            schedule="step:4784,6578:0.1",
            weight_decay=1e-4,
        )
    )


paper = Config()
small = Config(
    encoder=replace(resnet.SMALL, stride=DIVISOR),
    fixed=False,
    scale=None,
    channels=48,
    levels=4,
    hidden=192,
    mask_layers=2,
    anchor=5,
    finest=14,
    candidates=(200, 200),
    proposals=100,
    rois=64,
    training=Training(
        steps=500,
        batch=4,
        learning_rates={"encoder": 1e-3, "head": 2e-3},
        optimiser="adam",
        schedule="cosine",
    ),
)


def build(config: Config, labels: Sequence[str], *, learned: Sequence[str] | None = None) -> "MaskRCNN":
    """The network of ``config`` that reports ``labels`` (background first).

    ``learned``: the classes that it has, where they are others, as ``detection.COCO``.
    """
    return MaskRCNN(config, labels, learned=learned or labels)


class Detector(mmdet.MaskRCNN, Encoder):
    """mmdet's Mask R-CNN for foreground ``classes``; its keys are those of mmdet's checkpoints.

    It counts classes as mmdet does, from 0. ``rpn_streams``: pyramids, side by side, that the RPN sees;
    ``classifies``: whether RoIs are given classes here; if not, their boxes and masks alone are.
    """

    backbone: Any
    rpn_head: Any
    roi_head: Any
    train_cfg: Any

    def __init__(self, config: Config, *, classes: int, rpn_streams: int = 1, classifies: bool = True) -> None:
        super().__init__(**_configuration(config, classes=classes, rpn_streams=rpn_streams, classifies=classifies))
        self.beyond = () if classifies else ("roi_head.bbox_head.fc_cls.",)
        if not next(self.parameters()).is_meta:  # where only keys and sizes are asked for
            self.init_weights()  # type: ignore[operator]

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps of the pyramid, finest first. mmcv's RoIAlign reads them as if channels came first, however they lie."""
        return tuple(level.contiguous() for level in super().extract_feat(batch_inputs))

    def losses(
        self, maps: Maps, truth: list[InstanceData], meta: dict[str, Any], *, rpn_maps: Maps | None = None
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """The parts of the loss (``LOSSES``) and their sum on pyramids of B frames, and the RoIs sampled of each frame.

        ``truth`` and ``meta`` as of ``detection``; the RPN sees ``rpn_maps``, where it sees others. mmdet's
        ``TwoStageDetector.loss`` and ``StandardRoIHead.loss`` are the same but keep the RoIs to themselves.
        """
        objects = [InstanceData(bboxes=seen.bboxes, labels=torch.zeros_like(seen.labels)) for seen in truth]
        samples = [DetDataSample(metainfo=meta, gt_instances=instances) for instances in objects]
        rpn, proposals = self.rpn_head.loss_and_predict(
            rpn_maps or maps, samples, proposal_cfg=self.train_cfg.rpn_proposal
        )
        head = self.roi_head
        sampled = []
        for found, seen in zip(proposals, truth, strict=True):
            rois = InstanceData(priors=found.bboxes)
            sampled.append(head.bbox_sampler.sample(head.bbox_assigner.assign(rois, seen), rois, seen))
        of_boxes = head.bbox_loss(maps, sampled)
        of_masks = head.mask_loss(maps, sampled, of_boxes["bbox_feats"], truth)
        total, parts = self.parse_losses(rpn | of_boxes["loss_bbox"] | of_masks["loss_mask"])  # type: ignore[operator]
        named = {name: parts[f"loss_{name}"] for name in LOSSES if f"loss_{name}" in parts}
        return {"loss": total, **named}, sampled

    def propose(self, maps: Maps, meta: dict[str, Any]) -> Tensor:
        """RoIs (R, 5: 0, x1, y1, x2, y2) of one frame, best first, from the maps that the RPN sees."""
        anchors = self.rpn_head(maps)
        for level in (level for levels in anchors for level in levels):
            finite(level, "scores or offsets of anchors")  # mmdet drops such anchors, and nothing would be found
        [proposals] = self.rpn_head.predict_by_feat(*anchors, batch_img_metas=[meta], rescale=False)
        return bbox2roi([proposals.bboxes])

    def classify(self, maps: Maps, rois: Tensor) -> tuple[Tensor | None, Tensor]:
        """Probabilities (R, K), background first, if classes are given here, and each class's deltas (R, K - 1, 4)."""
        found = self.roi_head._bbox_forward(maps, rois)
        logits = found["cls_score"]
        return None if logits is None else logits.softmax(1).roll(1, dims=1), found["bbox_pred"].unflatten(1, (-1, 4))

    def refine(self, rois: Tensor, deltas: Tensor, classes: Tensor, meta: dict[str, Any]) -> Tensor:
        """Boxes (R, 4), inside the network's frame, of RoIs (R, 5) that are of ``classes`` (R,)."""
        of_class = deltas[torch.arange(len(rois)), classes]  # (R, K - 1, 4) -> (R, 4)
        return self.roi_head.bbox_head.bbox_coder.decode(rois[:, 1:], of_class, max_shape=meta["img_shape"])

    def soft_masks(self, maps: Maps, boxes: Tensor, classes: Tensor) -> Tensor:
        """(R, 28, 28), from 0 to 1, of boxes (R, 4) of one frame that are of ``classes`` (R,)."""
        masks = self.roi_head._mask_forward(maps, bbox2roi([boxes]))["mask_preds"]  # (R, K - 1, 28, 28)
        return finite(masks[torch.arange(len(boxes)), classes], "masks").sigmoid()

    def load_coco(self, checkpoint: dict[str, Any], *, classes: Sequence[str], where: str) -> None:
        """Load mmdet's checkpoint of COCO, as ``torch.load`` gives it, or its state dict.

        Rows of ``classes`` (of foreground) that COCO has not are those of the kind they start from
        (``detection.STARTS_FROM``). Raises ``ValueError`` where a class starts from none or the keys do not fit.
        """
        weights = dict(checkpoint.get("state_dict", checkpoint))
        kinds = torch.tensor(detection.coco_classes(classes)) - 1
        count = len(detection.COCO) - 1
        rows = {
            "bbox_head.fc_cls": torch.cat([kinds, torch.tensor([count])]),  # background last
            "bbox_head.fc_reg": (kinds[:, None] * 4 + torch.arange(4)).flatten(),
            "mask_head.conv_logits": kinds,
        }
        sizes = {"bbox_head.fc_cls": count + 1, "bbox_head.fc_reg": 4 * count, "mask_head.conv_logits": count}
        for layer, index in rows.items():
            for key in (f"roi_head.{layer}.weight", f"roi_head.{layer}.bias"):
                if key in weights and len(weights[key]) == sizes[layer]:
                    weights[key] = weights[key][index]
        load_encoder(self, weights, where=where)

    def _dump_init_info(self) -> None:
        """mmengine would log how each parameter began."""


class MaskRCNN(nn.Module):
    """The detector with the interface of a segmenter (``models.parts.region_types``)."""

    def __init__(self, config: Config, labels: Sequence[str], *, learned: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.learned = tuple(learned)
        self.reported = detection.reported_classes(learned, labels)
        self.detector = Detector(config, classes=len(learned) - 1)

    def loss(self, batch: RegionBatch) -> dict[str, Tensor]:
        """RPN, class, box and mask losses and their sum. Raises ``ValueError`` as ``detection.ground_truth``."""
        inputs, meta = detection.network_input(batch["frames"], scale=self.config.scale, divisor=DIVISOR)
        truth = detection.ground_truth(batch, meta, classes=len(self.learned))
        losses, _ = self.detector.losses(self.detector.extract_feat(inputs), truth, meta)
        return losses

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
        return {"rgb2d": self.detector.backbone}

    def load_coco(self, checkpoint: dict[str, Any], *, where: str) -> None:
        """As ``Detector.load_coco``, for the classes learned."""
        self.detector.load_coco(checkpoint, classes=self.learned[1:], where=where)

    def _regions(self, frame: Tensor) -> Regions:
        """Regions of one frame (1, H, W, 3)."""
        config, detector = self.config, self.detector
        nothing = detection.no_regions(frame, classes=len(self.reported) + 1)
        inputs, meta = detection.network_input(frame, scale=config.scale, divisor=DIVISOR)
        maps = detector.extract_feat(inputs)
        rois = detector.propose(maps, meta)  # (R, 5)
        if not len(rois):
            return nothing
        probabilities, deltas = detector.classify(maps, rois)
        assert probabilities is not None, "a segmenter's detector gives classes"
        class_scores = detection.reported_scores(probabilities, self.reported)
        best = rois.new_tensor(self.reported).long()[class_scores[:, 1:].max(1).indices] - 1  # as mmdet counts them
        boxes = detector.refine(rois, deltas, best, meta)
        in_frame = boxes / boxes.new_tensor(meta["scale_factor"] * 2)
        kept = detection.best_regions(
            in_frame, class_scores, threshold=config.score_threshold, iou=config.nms, most=config.regions
        )
        if not len(kept):
            return nothing
        return Regions(
            boxes=in_frame[kept],
            scores=class_scores[kept, 1:].max(1).values,
            class_scores=class_scores[kept],
            soft_masks=detector.soft_masks(maps, boxes[kept], best[kept]),
        )


LOSSES = ("rpn_cls", "rpn_bbox", "cls", "bbox", "mask")
"""Parts of the loss, as mmdet names them."""


def extractor(config: Config, *, side: int, channels: int) -> dict[str, Any]:
    """Of mmdet's SingleRoIExtractor: RoIAlign to ``side`` x ``side`` cells from the four finest levels."""
    return {
        "roi_layer": {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0},
        "out_channels": channels,
        "featmap_strides": _strides(config)[:4],
        "finest_scale": config.finest,
    }


def pyramid(config: Config) -> dict[str, Any]:
    """Of mmdet's FPN, the pyramid on the stages of a residual network."""
    return {
        "in_channels": detection.stage_channels(config.encoder),
        "out_channels": config.channels,
        "num_outs": config.levels,
    }


def _strides(config: Config) -> list[int]:
    """Input over output resolution of each level."""
    return [4 * 2**level for level in range(config.levels)]


def _configuration(config: Config, *, classes: int, rpn_streams: int, classifies: bool) -> ConfigDict:
    """mmdet's configuration of a ``Detector``; what is no field of ``Config`` is as in its file."""
    channels = config.channels
    coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4}
    nms = {"type": "nms", "iou_threshold": 0.7}

    def matched(positive: float, negative: float, lowest: float) -> dict[str, Any]:
        return {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": positive,
            "neg_iou_thr": negative,
            "min_pos_iou": lowest,
            "match_low_quality": True,
        }

    def sampled(count: int, share: float, *, with_truth: bool) -> dict[str, Any]:
        return {"type": "RandomSampler", "num": count, "pos_fraction": share, "add_gt_as_proposals": with_truth}

    def proposed(candidates: int) -> dict[str, Any]:
        return {"nms_pre": candidates, "max_per_img": config.proposals, "nms": nms, "min_bbox_size": 0}

    return ConfigDict(
        backbone={"type": detection.Backbone, "config": config.encoder, "fixed": config.fixed},
        neck={"type": "FPN", **pyramid(config)},
        rpn_head={
            "type": "RPNHead",
            "in_channels": channels * rpn_streams,
            "feat_channels": channels,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [config.anchor],
                "ratios": [0.5, 1.0, 2.0],
                "strides": _strides(config),
            },
            "bbox_coder": {**coder, "target_stds": [1.0] * 4},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "L1Loss"},
        },
        roi_head={
            "type": "StandardRoIHead",
            "bbox_roi_extractor": {"type": "SingleRoIExtractor", **extractor(config, side=POOLED, channels=channels)},
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": channels,
                "fc_out_channels": config.hidden,
                "roi_feat_size": POOLED,
                "num_classes": classes,
                "with_cls": classifies,
                "bbox_coder": {**coder, "target_stds": [0.1, 0.1, 0.2, 0.2]},
                "loss_cls": {"type": "CrossEntropyLoss"},
                "loss_bbox": {"type": "L1Loss"},
            },
            "mask_roi_extractor": {
                "type": "SingleRoIExtractor",
                **extractor(config, side=MASK_SIDE // 2, channels=channels),
            },
            "mask_head": {
                "type": "FCNMaskHead",
                "num_convs": config.mask_layers,
                "in_channels": channels,
                "conv_out_channels": channels,
                "num_classes": classes,
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
            },
        },
        train_cfg={
            "rpn": {
                "assigner": matched(0.7, 0.3, 0.3),
                "sampler": sampled(256, 0.5, with_truth=False),
                "allowed_border": -1,
                "pos_weight": -1,
            },
            "rpn_proposal": proposed(config.candidates[0]),
            "rcnn": {
                "assigner": matched(0.5, 0.5, 0.5),
                "sampler": sampled(config.rois, 0.25, with_truth=True),
                "mask_size": MASK_SIDE,
                "pos_weight": -1,
            },
        },
        test_cfg={"rpn": proposed(config.candidates[1]), "rcnn": {}},
    )
