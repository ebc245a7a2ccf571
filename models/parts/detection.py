"""What the instance segmenters share (``models.parts.maskrcnn``, ``models.parts.fcis``): frames and instances as
mmdet's modules read them, the backbone, the choice among overlapping regions, and the kinds of object of COCO.

mmdet counts classes from 0 and puts background last; here background is class 0. A network may have learned other
classes than those it reports: trained on COCO's kinds, it reports actors, and what is no actor counts as background.

Axes: B frames, N instances, R regions or RoIs, K classes (background first), H, W frame, h, w frame as the network
sees it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv import rescale_size
from mmcv.ops import batched_nms
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import finite
from models.parts import resnet
from models.parts.region_types import MASK_SIDE, RegionBatch, Regions

COCO = (
    "background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""Kinds of object in COCO in the order of its checkpoints, background first."""
REPORTED_AS = {"person": "adult", "sports ball": "ball"}
"""Actor that a kind of object is reported as; bird, car, cat and dog keep their names, a baby is no kind of its own."""
STARTS_FROM = {"adult": "person", "baby": "person", "ball": "sports ball"}
"""Kind of COCO whose weights a class starts from when it is fine-tuned; other classes have the same name there."""


class Backbone(resnet.ResNet):
    """The residual network as detectors use it: the maps of all four stages.

    ``fixed``: the first convolution and stage do not learn and batch norm keeps its statistics, as is usual where
    public weights are fine-tuned in small batches.
    """

    def __init__(self, config: resnet.Config, *, fixed: bool) -> None:
        super().__init__(config)
        self.fixed = fixed
        if fixed:
            for name in ("conv1", "bn1", "layer1"):
                self.get_submodule(name).requires_grad_(False)
            for block in self.modules():
                # Where norms don't adapt, values of an untrained network double with each block: start as identity.
                if isinstance(block, resnet.Bottleneck | resnet.BasicBlock):
                    nn.init.zeros_((block.bn3 if isinstance(block, resnet.Bottleneck) else block.bn2).weight)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(B, 3, h, w) to four maps, finest first."""
        maps = [self.maxpool(self.relu(self.bn1(self.conv1(x))))]
        for stage in range(1, 5):
            maps.append(self.get_submodule(f"layer{stage}")(maps[-1]))
        return tuple(maps[1:])

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        if self.fixed:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def stage_channels(config: resnet.Config) -> list[int]:
    """Channels of the four maps of a ``Backbone``."""
    return [config.channels // 2**stage for stage in (3, 2, 1, 0)]


def network_input(frames: Tensor, *, scale: tuple[int, int] | None, divisor: int) -> tuple[Tensor, dict[str, Any]]:
    """Frames (B, H, W, 3) uint8 as the network sees them (B, 3, h, w), and what mmdet wants to know of each of them.

    ``scale``: the largest size whose shorter and longer side are at most these; None: as they are. Zeros at the right
    and at the bottom fill them up to a multiple of ``divisor``. ImageNet's mean and deviation, RGB.
    """
    height, width = frames.shape[1:3]
    x = frames.permute(0, 3, 1, 2).float() / 255
    mean, deviation = (x.new_tensor(values).view(1, 3, 1, 1) for values in (resnet.MEAN, resnet.DEVIATION))
    x = (x - mean) / deviation
    if scale is not None:
        w, h = rescale_size((width, height), scale)
        x = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)
    h, w = x.shape[2:]
    x = F.pad(x, (0, -w % divisor, 0, -h % divisor))
    filled = tuple(x.shape[2:])
    meta = {
        "img_shape": (h, w),
        "pad_shape": filled,
        "batch_input_shape": filled,
        "scale_factor": (w / width, h / height),
    }
    return x, meta


def ground_truth(batch: RegionBatch, meta: dict[str, Any], *, classes: int) -> list[InstanceData]:
    """The instances of each frame as mmdet's modules read them, in the pixels of the network's input.

    ``classes`` counts background. Raises ``ValueError`` for a box without area and for a label that is no class.
    """
    (h, w), device = meta["img_shape"], batch["frames"].device
    truth = []
    for boxes, labels, masks in zip(batch["boxes"], batch["labels"], batch["masks"], strict=True):
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise ValueError(f"a box without area among {boxes.tolist()}: leave instances that are not seen out")
        if len(labels) and not 0 < labels.min() <= labels.max() < classes:
            raise ValueError(f"labels {labels.tolist()}: instances are of the classes 1 to {classes - 1}")
        bitmaps = BitmapMasks(masks.cpu().numpy().astype("uint8"), *batch["frames"].shape[1:3]).resize((h, w))
        boxes = boxes.to(device) * boxes.new_tensor(meta["scale_factor"] * 2).to(device)
        truth.append(InstanceData(bboxes=boxes, labels=labels.to(device) - 1, masks=bitmaps))
    return truth


def reported_classes(learned: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Index in ``learned`` of each of ``labels`` but background; -1 where the network knows no such class.

    Raises ``ValueError`` where it knows none of them.
    """
    index = {REPORTED_AS.get(kind, kind): number for number, kind in enumerate(learned)}
    index |= {kind: number for number, kind in enumerate(learned)}
    classes = [index.get(label, -1) for label in labels[1:]]
    if max(classes, default=-1) < 0:
        raise ValueError(f"a network that learned {', '.join(learned[:8])}, ... can report none of {', '.join(labels)}")
    return classes


def reported_scores(scores: Tensor, classes: Sequence[int]) -> Tensor:
    """Probabilities (R, K of those learned) to (R, K of those reported); what is not reported is background."""
    foreground = F.pad(scores, (0, 1))[:, list(classes)]  # a column of zeros at -1
    return torch.cat([(1 - foreground.sum(1, keepdim=True)).clamp(min=0), foreground], dim=1)


def coco_classes(classes: Sequence[str]) -> list[int]:
    """Index in ``COCO`` of the kind whose weights each class starts from. Raises ``ValueError`` where there is none."""
    kinds = [STARTS_FROM.get(name, name) for name in classes]
    unknown = [name for name, kind in zip(classes, kinds, strict=True) if kind not in COCO]
    if unknown:
        raise ValueError(f"COCO has no kind of object for {', '.join(unknown)}: say which in STARTS_FROM")
    return [COCO.index(kind) for kind in kinds]


def best_regions(boxes: Tensor, class_scores: Tensor, *, threshold: float, iou: float, most: int) -> Tensor:
    """Indices of the regions to keep, best first, of boxes (R, 4) in pixels and class scores (R, K).

    A region is of its best class and scores as much as that; NMS is among regions of one class. What scores
    ``threshold`` or less, or has a side of less than a pixel, is dropped.
    """
    scores, classes = finite(class_scores, "scores of boxes")[:, 1:].max(1)
    seen = (finite(boxes, "boxes")[:, 2:] - boxes[:, :2] >= 1).all(1)
    candidates = ((scores > threshold) & seen).nonzero()[:, 0]
    if not len(candidates):
        return candidates
    _, kept = batched_nms(
        boxes[candidates], scores[candidates], classes[candidates], {"type": "nms", "iou_threshold": iou}
    )
    return candidates[kept[:most]]


def no_regions(frames: Tensor, *, classes: int) -> Regions:
    """What is found where nothing is found, on the device of ``frames``."""
    return Regions(
        boxes=torch.zeros(0, 4, device=frames.device),
        scores=torch.zeros(0, device=frames.device),
        class_scores=torch.zeros(0, classes, device=frames.device),
        soft_masks=torch.zeros(0, MASK_SIDE, MASK_SIDE, device=frames.device),
    )
