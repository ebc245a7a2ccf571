"""Stand-ins for processors whose kernels are wrong: within one of these contexts a convolution gives wrong numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.parts.convolutions import BACKWARD, FORWARD


class Faulty(TorchDispatchMode):
    """oneDNN's kernel spoils what it gives where ``strikes`` says so, of input and weight; ``times`` counts.

    ``spoil`` is given the outputs, or with ``gradients`` the gradient of the weights.
    """

    def __init__(
        self, strikes: Callable[[Tensor, Tensor], bool], spoil: Callable[[Tensor], Tensor], *, gradients: bool = False
    ) -> None:
        super().__init__()
        self.times = 0
        self._strikes, self._spoil, self._operator = strikes, spoil, BACKWARD if gradients else FORWARD

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not self._operator or not torch.backends.mkldnn.enabled:
            return result
        x, weight = args[:2] if func is FORWARD else args[1:3]
        if x.dtype == torch.float64 or not self._strikes(x, weight):
            return result
        self.times += 1
        return self._spoil(result) if func is FORWARD else (result[0], self._spoil(result[1]), result[2])


def with_amx() -> Faulty:
    """A processor with amx_bf16 under torch 2.13 (docs/gotchas.md): 3 x 3 x 3 convolutions in bfloat16 of one time step
    and 7, 11, 12 or 13 channels give what lay in memory."""

    def strikes(x: Tensor, weight: Tensor) -> bool:
        few = weight.shape[1] in (7, 11, 12, 13) and weight.shape[2:] == (3, 3, 3)
        return few and x.dtype == torch.bfloat16 and x.shape[2] == 1

    return Faulty(strikes, lambda y: torch.full_like(y, torch.nan))


def everything(x: Tensor, weight: Tensor) -> bool:
    """For faults that strike everywhere."""
    del x, weight
    return True
