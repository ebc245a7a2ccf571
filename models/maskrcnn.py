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
from torch import Tensor, nn

from models import detection, resnet
from models.network import Encoder, Training, load_encoder, split_parameters
from models.regions import MASK_SIDE, RegionBatch, Regions

RESNET101 = replace(resnet.RESNET101, stride=32)
DIVISOR = 32
"""Frames are filled up to a multiple of it: the stride of the backbone's coarsest map."""


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
    """mmdet's Mask R-CNN; its keys are those of mmdet's checkpoints."""

    beyond = ()

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps of the pyramid, finest first. mmcv's RoIAlign reads them as if channels came first, however they lie."""
        return tuple(level.contiguous() for level in super().extract_feat(batch_inputs))

    def _dump_init_info(self) -> None:
        """mmengine would log how each parameter began."""


class MaskRCNN(nn.Module):
    """The detector with the interface of a segmenter (``models.regions``)."""

    def __init__(self, config: Config, labels: Sequence[str], *, learned: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.learned = tuple(learned)
        self.reported = detection.reported_classes(learned, labels)
        detector: Any = Detector(**_configuration(config, classes=len(learned) - 1))
        if not next(detector.parameters()).is_meta:  # where only keys and sizes are asked for
            detector.init_weights()
        self.detector: Any = detector

    def loss(self, batch: RegionBatch) -> dict[str, Tensor]:
        """RPN, class, box and mask losses and their sum. Raises ``ValueError`` as ``detection.ground_truth``."""
        inputs, meta = detection.network_input(batch["frames"], scale=self.config.scale, divisor=DIVISOR)
        truth = detection.ground_truth(batch, meta, classes=len(self.learned))
        samples = [DetDataSample(metainfo=meta, gt_instances=instances) for instances in truth]
        total, parts = self.detector.parse_losses(self.detector.loss(inputs, samples))
        return {"loss": total, **{name: parts[f"loss_{name}"] for name in LOSSES}}

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
        """Load mmdet's checkpoint of COCO, as ``torch.load`` gives it, or its state dict.

        Rows of classes that COCO has not are those of the kind they start from (``detection.STARTS_FROM``). Raises
        ``ValueError`` where a class starts from none or the keys do not fit.
        """
        weights = dict(checkpoint.get("state_dict", checkpoint))
        kinds = torch.tensor(detection.coco_classes(self.learned[1:])) - 1
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
        load_encoder(self.detector, weights, where=where)

    def _regions(self, frame: Tensor) -> Regions:
        """Regions of one frame (1, H, W, 3)."""
        config, head = self.config, self.detector.roi_head
        nothing = detection.no_regions(frame, classes=len(self.reported) + 1)
        inputs, meta = detection.network_input(frame, scale=config.scale, divisor=DIVISOR)
        maps = self.detector.extract_feat(inputs)
        proposals = self.detector.rpn_head.predict(maps, [DetDataSample(metainfo=meta)], rescale=False)
        rois = bbox2roi([proposals[0].bboxes])  # (R, 5)
        if not len(rois):
            return nothing
        found = head._bbox_forward(maps, rois)
        [decoded] = head.bbox_head.predict_by_feat((rois,), (found["cls_score"],), (found["bbox_pred"],), [meta])
        class_scores = detection.reported_scores(decoded.scores.roll(1, dims=1), self.reported)
        best = rois.new_tensor(self.reported).long()[class_scores[:, 1:].max(1).indices] - 1  # as mmdet counts them
        boxes = decoded.bboxes.view(len(rois), -1, 4)[torch.arange(len(rois)), best]  # (R, K - 1, 4) -> (R, 4)
        in_frame = boxes / boxes.new_tensor(meta["scale_factor"] * 2)
        kept = detection.best_regions(
            in_frame, class_scores, threshold=config.score_threshold, iou=config.nms, most=config.regions
        )
        if not len(kept):
            return nothing
        masks = head._mask_forward(maps, bbox2roi([boxes[kept]]))["mask_preds"]  # (R, K - 1, 28, 28)
        return Regions(
            boxes=in_frame[kept],
            scores=class_scores[kept, 1:].max(1).values,
            class_scores=class_scores[kept],
            soft_masks=masks[torch.arange(len(kept)), best[kept]].sigmoid(),
        )


LOSSES = ("rpn_cls", "rpn_bbox", "cls", "bbox", "mask")
"""Parts of the loss, as mmdet names them."""


def _configuration(config: Config, *, classes: int) -> ConfigDict:
    """mmdet's configuration for foreground ``classes``; what is no field of ``Config`` is as in its file."""
    channels = config.channels
    strides = [4 * 2**level for level in range(config.levels)]
    coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4}
    nms = {"type": "nms", "iou_threshold": 0.7}

    def extractor(side: int) -> dict[str, Any]:
        return {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0},
            "out_channels": channels,
            "featmap_strides": strides[:4],
            "finest_scale": config.finest,
        }

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
        neck={
            "type": "FPN",
            "in_channels": detection.stage_channels(config.encoder),
            "out_channels": channels,
            "num_outs": config.levels,
        },
        rpn_head={
            "type": "RPNHead",
            "in_channels": channels,
            "feat_channels": channels,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [config.anchor],
                "ratios": [0.5, 1.0, 2.0],
                "strides": strides,
            },
            "bbox_coder": {**coder, "target_stds": [1.0] * 4},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "L1Loss"},
        },
        roi_head={
            "type": "StandardRoIHead",
            "bbox_roi_extractor": extractor(7),
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": channels,
                "fc_out_channels": config.hidden,
                "roi_feat_size": 7,
                "num_classes": classes,
                "bbox_coder": {**coder, "target_stds": [0.1, 0.1, 0.2, 0.2]},
                "loss_cls": {"type": "CrossEntropyLoss"},
                "loss_bbox": {"type": "L1Loss"},
            },
            "mask_roi_extractor": extractor(MASK_SIDE // 2),
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
