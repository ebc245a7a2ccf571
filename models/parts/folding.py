"""A trained network made ready to predict: the same function with fewer passes over memory.

In evaluation a batch norm is a factor and an offset for each channel, which the convolution before it can hold in its
own weights (Jacob et al. 2018, section 3.2). Results differ in the last bits.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_leaves

from models.base import finite
from models.parts.network import channels_last

Precision = Literal["float32", "bfloat16"]


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Within it convolutions and products are of ``precision``.

    bfloat16 has the range of float32 and 8 bits of its mantissa. Where a processor or a GPU has instructions for it, it
    is about twice as fast; where not, slower.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def for_inference(network: Any) -> Any:
    """``network`` itself, in evaluation, batch norms folded, channels last. It can learn no more."""
    network.eval().requires_grad_(False)
    return channels_last(_fold_batch_norms(network))


@contextmanager
def naming_layers(network: nn.Module) -> Iterator[None]:
    """Within it the first layer of ``network`` that gives a number that is not finite raises ``FloatingPointError``.

    Its name is in the message. Looks at every number of every layer: for finding out, not for working.
    """

    def look(name: str, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                finite(output, f"layer `{name}` gives numbers")

    with ExitStack() as stack:
        for name, module in network.named_modules():
            stack.callback(module.register_forward_hook(partial(look, name)).remove)
        yield


def _fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold each batch norm that a module names right behind a convolution.

    All networks here name layers in the order in which they run; a norm behind anything else stays as it is.
    """
    for module in list(network.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, _ConvNd) and isinstance(norm, _BatchNorm):
                transposed = isinstance(convolution, _ConvTransposeNd)
                setattr(module, name, fuse_conv_bn_eval(convolution, norm, transpose=transposed))
                setattr(module, norm_name, nn.Identity())
    return network
