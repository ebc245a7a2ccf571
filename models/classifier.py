"""Classification of actor and action, cell by cell: what encoders are pretrained on when no public weights are named.

An encoder and, on every cell of its feature map, one linear layer for the actor and one for the action. The target of a
cell is the share of its pixels (and frames) that each class has. Cells rather than whole pictures, because minutes of
training on pictures teach an encoder next to nothing (docs/decisions/001-pretraining.md).
Axes: B clips, N still frames of a clip, T frames, H, W crop, C channels, K classes.
"""

from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import i3d, resnet
from models.deeplab import picture

BACKGROUND_WEIGHT = 0.1
"""Of background cells in the loss: they are nine in ten."""
GRID = 4
"""A cell's shares are counted on every fourth pixel of every fourth line: a sixteenth of the work."""


class ClipBatch(TypedDict):
    """Crops of generated clips."""

    frames: Tensor  # (B, T, H, W, 3) uint8 RGB
    labels: Tensor  # (B, T, H, W) uint8 joint ids
    stills: Tensor  # (N,) numbers of the frames that 2D encoders see
    flow: Tensor  # (B, N, H, W, 3) uint8 colour wheel, of the still frames


class Classifier(nn.Module):
    """One encoder and its two linear heads."""

    def __init__(self, encoder: nn.Module, channels: int, *, actors: int, actions: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = (actors, actions)
        self.head = nn.Linear(channels, actors + actions)

    def losses(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of both heads, and the share of actor cells whose action is right.

        ``features`` (B, C, t, h, w), ``labels`` (B, T, H, W) joint ids.
        """
        size = (features.shape[2], features.shape[3], features.shape[4])
        labels = labels[..., GRID // 2 :: GRID, GRID // 2 :: GRID]
        scores = self.head(features.movedim(1, -1)).flatten(0, -2)  # (cells, K_actor + K_action)
        total = torch.zeros((), device=features.device)
        right = total
        for logits, ids, classes in zip(
            scores.split(self.classes, dim=1), (labels // 10, labels % 10), self.classes, strict=True
        ):
            shares = F.adaptive_avg_pool3d(F.one_hot(ids.long(), classes).movedim(-1, 1).float(), size)
            target = shares.movedim(1, -1).flatten(0, -2)  # (cells, K)
            weight = torch.where(target[:, 0] > 0.5, BACKGROUND_WEIGHT, 1.0)
            loss = F.cross_entropy(logits, target, reduction="none")
            total = total + (loss * weight).sum() / weight.sum()
            foreground = target[:, 0] < 0.5
            hits = (logits.argmax(1) == target.argmax(1)) & foreground
            right = hits.sum() / foreground.sum().clamp(min=1)
        return total, right


class Classifiers(nn.Module):
    """The encoders that methods start from, trained side by side on the same clips: rgb2d, flow2d and rgb3d."""

    def __init__(self, encoder2d: resnet.Config, encoder3d: i3d.Config, *, actors: int, actions: int) -> None:
        super().__init__()
        heads = {"actors": actors, "actions": actions}
        self.rgb2d = Classifier(resnet.ResNet(encoder2d), encoder2d.channels, **heads)
        self.flow2d = Classifier(resnet.ResNet(encoder2d), encoder2d.channels, **heads)
        self.last = encoder3d.last
        self.rgb3d = Classifier(i3d.I3D(encoder3d), encoder3d.channels(self.last), **heads)

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Sum of the three encoders' losses (they share nothing), and the action accuracy of each."""
        stills = batch["stills"]
        labels = batch["labels"][:, stills].flatten(0, 1)[:, None]  # (B * N, 1, H, W)
        clip = batch["frames"].permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, H, W)
        rgb = self.rgb2d.encoder(picture(batch["frames"][:, stills].flatten(0, 1)))
        flow = self.flow2d.encoder(picture(batch["flow"].flatten(0, 1)))
        results = {
            "rgb2d": self.rgb2d.losses(rgb[:, :, None], labels),
            "flow2d": self.flow2d.losses(flow[:, :, None], labels),
            "rgb3d": self.rgb3d.losses(self.rgb3d.encoder(clip, (self.last,))[self.last], batch["labels"]),
        }
        total = torch.stack([loss for loss, _ in results.values()]).sum()
        return {"loss": total, **{f"{name}_accuracy": accuracy for name, (_, accuracy) in results.items()}}

    def encoders(self) -> dict[str, nn.Module]:
        """Name of the weights -> encoder."""
        return {name: getattr(self, name).encoder for name in ("rgb2d", "flow2d", "rgb3d")}
