"""Classification of actor and action: what encoders are pretrained on when no public weights are named.

An encoder, the average of its features under each figure's mask, one linear layer for the actor and one for the action.
Under the mask, because a classifier of whole pictures learns from one figure a clip only, and one of single pixels
spends its first minutes on background (docs/decisions/001-pretraining.md). Each Inception network has an auxiliary
classifier half way up, as the first one had (Szegedy et al. 2015, section 5): without it its early blocks learn slowly.
Axes: B clips, N still frames of a clip, T frames, H, W crop, C channels, P joint ids, M figures found.
"""

from dataclasses import replace
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts import i3d, resnet
from models.parts.resnet import picture

GRID = 4
"""Masks are taken on every fourth pixel of every fourth line."""
LEAST = 0.02
"""Share of a feature map that a figure must cover to be classified."""
AUXILIARY = "Mixed_3c"
"""End point of a 3D encoder that its auxiliary classifier sees."""


class ClipBatch(TypedDict):
    """Crops of generated clips."""

    stills: Tensor  # (B, N, H, W, 3) uint8 RGB, what 2D encoders see
    flow: Tensor  # (B, N, H, W, 3) uint8 colour wheel, of the same frames
    still_labels: Tensor  # (B, N, H, W) uint8 joint ids
    frames: Tensor  # (B, T, h, w, 3) uint8 RGB, what 3D encoders see, smaller
    motion: Tensor  # (B, T, h, w, 2) float32 flow of those frames, encoded as I3D takes it
    labels: Tensor  # (B, T, h, w) uint8 joint ids


class Classifier(nn.Module):
    """One encoder and its two linear heads."""

    def __init__(self, encoder: nn.Module, channels: int, *, actors: int, actions: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = (actors, actions)
        self.head = nn.Linear(channels, actors + actions)

    def losses(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy of both heads, and the shares of figures whose actor and whose action are right.

        ``features`` (B, C, t, h, w); ``labels`` (B, T, H, W) joint ids. Figures of one label count as one.
        """
        size = (features.shape[2], features.shape[3], features.shape[4])
        sparse = labels[..., GRID // 2 :: GRID, GRID // 2 :: GRID].long()
        ids = sparse.unique()
        ids = ids[ids > 0]  # (P,)
        masks = (sparse[:, None] == ids.view(1, -1, 1, 1, 1)).float()  # (B, P, T, H/4, W/4)
        masks = F.adaptive_avg_pool3d(masks, size).flatten(2)  # (B, P, t * h * w)
        found = masks.mean(2) > LEAST  # (B, P)
        pooled = torch.einsum("bcx,bpx->bpc", features.flatten(2), masks) / masks.sum(2, keepdim=True).clamp(min=1e-6)
        actor, action = self.head(pooled[found]).split(self.classes, dim=1)  # (M, K)
        truth = ids.expand(found.shape)[found]  # (M,)
        loss = F.cross_entropy(actor, truth // 10) + F.cross_entropy(action, truth % 10)
        right = (actor.argmax(1) == truth // 10, action.argmax(1) == truth % 10)
        return loss, right[0].float().mean(), right[1].float().mean()


class Classifiers(nn.Module):
    """The encoders that methods start from, trained side by side on the same clips: rgb2d, flow2d, rgb3d and flow3d."""

    def __init__(self, encoder2d: resnet.Config, encoder3d: i3d.Config, *, actors: int, actions: int) -> None:
        super().__init__()
        heads = {"actors": actors, "actions": actions}
        self.rgb2d = Classifier(resnet.ResNet(encoder2d), encoder2d.channels, **heads)
        self.flow2d = Classifier(resnet.ResNet(encoder2d), encoder2d.channels, **heads)
        self.last = encoder3d.last
        self.rgb3d = Classifier(i3d.I3D(encoder3d), encoder3d.channels(self.last), **heads)
        self.auxiliary = Classifier(nn.Identity(), encoder3d.channels(AUXILIARY), **heads)
        self.flow3d = Classifier(i3d.I3D(replace(encoder3d, inputs=2)), encoder3d.channels(self.last), **heads)
        self.flow_auxiliary = Classifier(nn.Identity(), encoder3d.channels(AUXILIARY), **heads)

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Sum of the encoders' losses (they share nothing), and the accuracies of each."""
        labels = batch["still_labels"].flatten(0, 1)[:, None]  # (B * N, 1, H, W)
        rgb = self.rgb2d.encoder(picture(batch["stills"].flatten(0, 1)))
        flow = self.flow2d.encoder(picture(batch["flow"].flatten(0, 1)))
        clip = batch["frames"].permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, h, w)
        motion = batch["motion"].permute(0, 4, 1, 2, 3)  # (B, 2, T, h, w)
        wanted = (AUXILIARY, self.last)  # (B, C, T/2, h/8, w/8), (B, C, T/4, h/16, w/16)
        seen, moved = self.rgb3d.encoder(clip, wanted), self.flow3d.encoder(motion, wanted)
        results = {
            "rgb2d": self.rgb2d.losses(rgb[:, :, None], labels),
            "flow2d": self.flow2d.losses(flow[:, :, None], labels),
            "rgb3d": self.rgb3d.losses(seen[self.last], batch["labels"]),
            "auxiliary": self.auxiliary.losses(seen[AUXILIARY], batch["labels"]),
            "flow3d": self.flow3d.losses(moved[self.last], batch["labels"]),
            "flow_auxiliary": self.flow_auxiliary.losses(moved[AUXILIARY], batch["labels"]),
        }
        losses = {"loss": torch.stack([loss for loss, *_ in results.values()]).sum()}
        for name, (_, actor, action) in results.items():
            losses |= {f"{name}_actor": actor, f"{name}_action": action}
        return losses

    def encoders(self) -> dict[str, nn.Module]:
        """Name of the weights -> encoder."""
        return {name: getattr(self, name).encoder for name in ("rgb2d", "flow2d", "rgb3d", "flow3d")}
