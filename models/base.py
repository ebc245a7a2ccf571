"""What every method has in common: the batch it is given, the predictions it gives, how pairs are scored.

A method is one module with ``Config`` (``paper`` and ``small`` are two values of it), ``build(config, labels)`` and a
network with ``loss(batch) -> dict`` (the key ``loss`` is what is minimised) and ``predict(batch) -> Predictions``.
Axes: B batch, T frames, H height, W width, K classes, P valid pairs (44 with background).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from models import IGNORE


class Labels(Protocol):
    """What a method needs to know of a data set's labels (``stages.core.labels.LabelSpace`` is one)."""

    actors: tuple[str, ...]  # background first
    actions: tuple[str, ...]
    stride: int  # of joint ids: actor * stride + action
    valid_ids: tuple[int, ...]  # of the pairs that can occur, background (0) first
    multi_label: bool  # an actor can do several things at once


class Batch(TypedDict, total=False):
    """What the loader gives a method."""

    frames: Tensor  # (B, T, H, W, 3) uint8 RGB
    flow: Tensor  # (B, T, H, W, 2 or 3), encoded as the method's Config asks
    labels: Tensor  # (B, T, H, W) uint8 joint ids, IGNORE where nobody labelled; training only
    actions: Tensor  # multi-label data, whose labels are actors: (B, T, K, H, W) uint8, 1 where an action is done
    sentences: list[str]  # (B,)
    mask: Tensor  # (B, T, H, W) uint8: 1 the actor that the sentence means, 0 else, IGNORE where nobody labelled


@dataclass(frozen=True)
class Predictions:
    """Label maps at the labelled frame of each window, at the resolution of the input: (B, H, W) uint8 each."""

    joint: Tensor
    actor: Tensor
    action: Tensor


@dataclass(frozen=True)
class MultiLabelPredictions:
    """The same where an actor can do several things at once: (B, H, W) uint8 and (B, K, H, W) bool, K all actions."""

    actor: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Window:
    """Frames that a method sees around the frame it labels: numbers ``frame - before`` to ``frame + after``."""

    before: int = 0
    after: int = 0

    @property
    def length(self) -> int:
        """Frames in the window."""
        return self.before + 1 + self.after


SINGLE_FRAME = Window()


@dataclass(frozen=True)
class Training:
    """How a method is trained. ``learning_rates`` are by the names of the method's ``parameter_groups``."""

    steps: int
    batch: int
    learning_rates: dict[str, float] = field(default_factory=dict)
    optimiser: str = "sgd"  # sgd (momentum 0.9) or adam
    # poly (power 0.9, DeepLab), cosine (one cycle with warm-up) or step:<at>,<at>,...:<factor>
    schedule: str = "poly"
    weight_decay: float = 5e-4


def split_labels(joint: Tensor, *, stride: int) -> tuple[Tensor, Tensor]:
    """Joint ids ``actor * stride + action`` to actor and action ids (int64), ``IGNORE`` kept.

    An actor without an action (id 10, 20, ... in A2D) is one whose action nobody told: its action is ``IGNORE``.
    """
    joint = joint.long()
    ignored = joint == IGNORE
    actor, action = joint // stride, joint % stride
    untold = ignored | ((action == 0) & (actor > 0))
    return torch.where(ignored, IGNORE, actor), torch.where(untold, IGNORE, action)


class PairScores(torch.nn.Module):
    """log p(pair) = log p(actor) + log p(action), over the pairs that can occur (Dang et al. 2018, equation 1 ff.)."""

    ids: Tensor  # (P,) joint id of each pair
    actors: Tensor
    actions: Tensor

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        ids = torch.tensor(labels.valid_ids)
        for name, values in (("ids", ids), ("actors", ids // labels.stride), ("actions", ids % labels.stride)):
            self.register_buffer(name, values, persistent=False)

    def forward(self, actor: Tensor, action: Tensor) -> Predictions:
        """Logits (B, K_actor, H, W) and (B, K_action, H, W) to label maps (B, H, W)."""
        pairs = actor.log_softmax(1)[:, self.actors] + action.log_softmax(1)[:, self.actions]  # (B, P, H, W)
        # `max` finds the index several times faster than `argmax` does (torch 2.x on CPUs)
        joint, best_actor, best_action = (scores.max(1).indices for scores in (pairs, actor, action))
        return Predictions(self.ids[joint].byte(), best_actor.byte(), best_action.byte())


def channels_last(network: torch.nn.Module) -> torch.nn.Module:
    """Lay out 2D and 3D convolutions channels last, which CPUs and GPUs compute faster; changes no value."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.dim()])
    return network


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor of a batch on ``device``."""
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else batch


def choose_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Encoder(torch.nn.Module):
    """A network that public weights are loaded into."""

    beyond: tuple[str, ...] = ("fc.", "logits.")
    """How the keys begin that public checkpoints hold and the encoder does not: layers deeper than its last."""

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a public checkpoint under this network's own keys; those of no known kind as they are."""
        return weights


def load_encoder(network: Encoder, weights: dict[str, Tensor], *, where: str) -> None:
    """Load public weights by key; layers that lie beyond the encoder (its ``beyond``) are left out.

    Raises ``ValueError`` that lists missing and unexpected keys, or shapes that do not fit.
    """
    own = network.state_dict()
    kept = {key: value for key, value in network.renamed(weights).items() if not key.startswith(network.beyond)}
    missing = sorted(key for key in own.keys() - kept.keys() if not key.endswith("num_batches_tracked"))
    unexpected = sorted(kept.keys() - own.keys())
    wrong = sorted(k for k in own.keys() & kept.keys() if own[k].shape != kept[k].shape)
    if missing or unexpected or wrong:
        raise ValueError(
            f"{where} does not fit this encoder: missing keys {missing[:5]} ({len(missing)}), unexpected keys "
            f"{unexpected[:5]} ({len(unexpected)}), other shapes {wrong[:5]} ({len(wrong)})"
        )
    network.load_state_dict(kept, strict=False)


def split_parameters(
    network: torch.nn.Module, encoders: Iterable[torch.nn.Module]
) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Parameters of the ``encoders`` within ``network`` and all others, without what does not learn."""
    own = {parameter for encoder in encoders for parameter in encoder.parameters()}
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [parameter for parameter in learned if parameter in own], [p for p in learned if p not in own]


def parameter_count(network: torch.nn.Module) -> int:
    """Learnable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def configuration(module: Any, name: str, *, inputs: str, variant: str) -> Any:
    """``paper`` or ``small`` of a method's module, with ``inputs``, as its ``variant`` has it.

    Raises ``ValueError`` for another name. A variant that the module doesn't list changes no configuration.
    """
    if name not in {"paper", "small"}:
        raise ValueError(f"train.common.config: `{name}` is neither `paper` nor `small`")
    config = module.with_inputs(getattr(module, name), inputs)
    variants = getattr(module, "VARIANTS", {})
    return variants[variant](config) if variant in variants else config
