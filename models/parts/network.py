"""What all networks have in common: how they are trained, their layout and device, public weights, parameters."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


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
    clip_norm: float = 10.0  # gradients are scaled down to this norm: a rare batch must not undo a short training


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
