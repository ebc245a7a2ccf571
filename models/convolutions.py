"""Convolutions whose kernels are known to be right: each is compared with float64 before its numbers are used.

oneDNN chooses a kernel by shape, layout, type and processor, and some of those kernels are wrong, silently: 3 x 3 x 3
ones in bfloat16 on processors with AMX, the gradients of 1 x 1 ones with stride 2 on processors without AVX-512
(docs/gotchas.md). ``fault`` says what is wrong with one convolution, ``Guard`` computes those that are wrong without
that kernel.

Axes: N batch, C channels, O outputs of G groups, then time, height and width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest error of a number, as a share of the root mean square of all, that is no fault: sound kernels show at most
4e-5 and 0.02 over 600 random shapes, wrong ones 1 and more."""
REPEATS = 3
"""Numbers that come from memory nobody wrote change from call to call."""
MOST = 4
"""Of a batch: more of the same are computed by the same kernel."""

FORWARD = torch.ops.aten.convolution.default
BACKWARD = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Convolution:
    """All that a kernel is chosen by. Shapes and strides of input and weight are as PyTorch gives them."""

    input: tuple[int, ...]  # (N, C, ...)
    input_strides: tuple[int, ...]
    weight: tuple[int, ...]  # (O, C / G, ...), of a transposed one (C, O / G, ...)
    weight_strides: tuple[int, ...]
    bias: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    dtype: str  # float32 or bfloat16
    threads: int
    backward: bool = False  # its gradients too

    def __str__(self) -> str:
        kind = f"{' x '.join(map(str, self.weight[2:]))} {'transposed ' if self.transposed else ''}convolution"
        way = ", gradients too" if self.backward else ""
        return f"{kind} of {list(self.weight)} on {list(self.input)}, stride {list(self.stride)}, {self.dtype}{way}"

    @property
    def outputs(self) -> int:
        """Channels that it gives."""
        return self.weight[1] * self.groups if self.transposed else self.weight[0]

    @property
    def settings(self) -> tuple[Any, ...]:
        """What ATen's operators are given behind input, weight and bias."""
        places = (self.stride, self.padding, self.dilation)
        return (*map(list, places), self.transposed, list(self.output_padding), self.groups)


def described(x: Tensor, weight: Tensor, *, bias: bool, settings: Sequence[Any], backward: bool) -> Convolution:
    """The convolution that ATen is asked for; of a large batch the first ``MOST``."""
    stride, padding, dilation, transposed, output_padding, groups = settings
    return Convolution(
        input=(min(len(x), MOST), *x.shape[1:]),
        input_strides=x.stride(),
        weight=tuple(weight.shape),
        weight_strides=weight.stride(),
        bias=bias,
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        transposed=transposed,
        output_padding=tuple(output_padding),
        groups=groups,
        dtype=str(x.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        backward=backward,
    )


def fault(convolution: Convolution) -> str:
    """What is wrong with the numbers that this machine computes for ``convolution``; empty where nothing is.

    Random numbers are convolved and compared, in float64, with the convolution of one random sum of the weights over
    the outputs of each group: any output that is wrong is so in the sum (Freivalds' check of a product), at the cost of
    one output for all.
    """
    torch.set_num_threads(convolution.threads)
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, convolution.dtype)
    fan_in = math.prod(convolution.weight[1:])
    x = _random(convolution.input, convolution.input_strides, dtype, generator)
    weight = _random(convolution.weight, convolution.weight_strides, dtype, generator, scale=fan_in**-0.5)
    bias = torch.randn(convolution.outputs, generator=generator).to(dtype) if convolution.bias else None
    factors = torch.rand(convolution.outputs, generator=generator, dtype=torch.float64) + 0.5
    factors *= torch.randint(0, 2, factors.shape, generator=generator) * 2 - 1

    exact_x, exact_weight = x.double().requires_grad_(), _summed_weight(convolution, weight, factors).requires_grad_()
    exact_bias = None if bias is None else (bias.double() * factors).view(convolution.groups, -1).sum(1)
    exact = FORWARD(exact_x, exact_weight, exact_bias, *convolution.settings)  # (N, G, ...)
    target, worst = exact.detach(), 0.0
    for _ in range(REPEATS):
        _leave_rubbish(x)
        y = FORWARD(x, weight, bias, *convolution.settings)  # (N, O, ...)
        summed = (y.double() * _along(factors, y)).unflatten(1, (convolution.groups, -1)).sum(2)  # (N, G, ...)
        worst = max(worst, _error(summed, target))
    if not worst <= TOLERANCE[convolution.dtype]:
        return f"its numbers are off by {worst:.2g} of their size"
    if not convolution.backward:
        return ""

    field = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    exact_gradients = torch.autograd.grad(exact, (exact_x, exact_weight), field)
    outer = field.repeat_interleave(convolution.outputs // convolution.groups, dim=1) * _along(factors, y)
    upstream = torch.empty_like(y).copy_(outer)
    sizes = None if bias is None else [convolution.outputs]
    for _ in range(REPEATS):
        _leave_rubbish(x)
        mask = [True, True, bias is not None]
        of_x, of_weight, of_bias = BACKWARD(upstream, x, weight, sizes, *convolution.settings, mask)
        errors = [_error(of_x.double(), exact_gradients[0])]
        of_factors = _expanded_gradient(convolution, exact_gradients[1], factors)
        errors.append(_error(of_weight.double(), of_factors))
        if bias is not None:
            errors.append(_error(of_bias.double(), outer.transpose(0, 1).flatten(1).sum(1)))
        worst = max(worst, *errors)
    return "" if worst <= TOLERANCE[convolution.dtype] else f"its gradients are off by {worst:.2g} of their size"


class Guard(TorchDispatchMode):
    """Within it each convolution on a CPU is one that ``verdict`` finds nothing wrong with.

    One that is wrong is computed in float32 where it is asked for in less, and without oneDNN where float32 is wrong
    too. ``verdict`` is asked once for each shape; ``found_wrong`` says whether there was one since the last entry.
    Every operator within passes through Python, which costs small networks as much time as they take: for the first
    time that a network sees tensors of some shapes.
    """

    def __init__(self, verdict: Callable[[Convolution], str], *, backward: bool = False) -> None:
        super().__init__()
        self.found_wrong = False
        self._verdict, self._backward = verdict, backward
        self._known: dict[Any, bool] = {}

    def __enter__(self) -> "Guard":
        self.found_wrong = False
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is FORWARD:
            x, weight, bias, *settings = args
            has_bias, tensors = bias is not None, [x, weight, bias]
        elif func is BACKWARD:
            upstream, x, weight, sizes, *settings, mask = args
            has_bias, tensors = sizes is not None, [upstream, x, weight]
        else:
            return func(*args, **(kwargs or {}))
        if x.device.type != "cpu" or not x.numel() or self._is_right(x, weight, has_bias, settings):
            return func(*args)
        if x.dtype == torch.float32:
            with torch.backends.mkldnn.flags(enabled=False):
                return func(*args)
        exact = [None if tensor is None else tensor.float() for tensor in tensors]
        if func is FORWARD:
            return self.__torch_dispatch__(func, types, (*exact, *settings)).to(x.dtype)
        found = self.__torch_dispatch__(func, types, (*exact, sizes, *settings, mask))
        return tuple(None if gradient is None else gradient.to(x.dtype) for gradient in found)

    def _is_right(self, x: Tensor, weight: Tensor, bias: bool, settings: Sequence[Any]) -> bool:
        key = (x.shape, x.stride(), weight.shape, weight.stride(), x.dtype, bias, *(str(value) for value in settings))
        right = self._known.get(key)
        if right is None:
            asked = described(x, weight, bias=bias, settings=settings, backward=self._backward)
            # Alone too: how many boxes a frame has is not decided by its shape.
            alone = replace(asked, input=(1, *asked.input[1:]))
            right = asked.dtype not in TOLERANCE or not any(map(self._verdict, dict.fromkeys((asked, alone))))
            self._known[key] = right
        self.found_wrong |= not right
        return right


KNOWN_FAULTS = (
    Convolution(
        input=(1, 11, 1, 3, 3), input_strides=(99, 1, 99, 33, 11), weight=(16, 11, 3, 3, 3),
        weight_strides=(297, 1, 99, 33, 11), bias=False, stride=(1, 1, 1), padding=(1, 1, 1), dilation=(1, 1, 1),
        transposed=False, output_padding=(0, 0, 0), groups=1, dtype="bfloat16", threads=1,
    ),
    Convolution(
        input=(4, 4, 32, 32), input_strides=(4096, 1, 128, 4), weight=(8, 4, 1, 1), weight_strides=(4, 1, 4, 4),
        bias=False, stride=(2, 2), padding=(0, 0), dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1,
        dtype="float32", threads=1, backward=True,
    ),
)  # fmt: skip
"""One of each kind that is known to be wrong on some processor."""


def _random(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, generator: torch.Generator, *, scale: float = 1.0
) -> Tensor:
    values = torch.randn(tuple(shape), generator=generator) * scale
    spread = all(stride > 0 for size, stride in zip(shape, strides, strict=True) if size > 1)
    if not spread:  # numbers that share their memory: copied before a kernel sees them
        return values.to(dtype)
    return torch.empty_strided(tuple(shape), tuple(strides), dtype=dtype).copy_(values)


def _along(factors: Tensor, y: Tensor) -> Tensor:
    """(O,) to (1, O, 1, ...), to be multiplied with ``y``."""
    return factors.view(1, -1, *[1] * (y.dim() - 2))


def _summed_weight(convolution: Convolution, weight: Tensor, factors: Tensor) -> Tensor:
    """Weights of the sum of each group's outputs by ``factors``: (G, C / G, ...), of a transposed one (C, 1, ...)."""
    groups, ones = convolution.groups, [1] * (weight.dim() - 2)
    if convolution.transposed:  # (C, O / G, ...)
        of_groups = factors.view(groups, 1, -1, *ones)
        return (weight.double().unflatten(0, (groups, -1)) * of_groups).sum(2, keepdim=True).flatten(0, 1)
    return (weight.double().unflatten(0, (groups, -1)) * factors.view(groups, -1, 1, *ones)).sum(1)


def _expanded_gradient(convolution: Convolution, gradient: Tensor, factors: Tensor) -> Tensor:
    """Gradient of all weights from that of the summed ones, the upstream gradient being the product of both."""
    groups, ones = convolution.groups, [1] * (gradient.dim() - 2)
    if convolution.transposed:  # (C, 1, ...) to (C, O / G, ...)
        return (gradient.unflatten(0, (groups, -1)) * factors.view(groups, 1, -1, *ones)).flatten(0, 1)
    return (gradient[:, None] * factors.view(groups, -1, 1, *ones)).flatten(0, 1)


def _error(numbers: Tensor, exact: Tensor) -> float:
    """Largest difference as a share of the root mean square of what is exact; infinite where a number is not finite."""
    if not numbers.numel():
        return 0.0
    if not numbers.isfinite().all():
        return math.inf
    return float((numbers - exact).abs().max() / exact.square().mean().sqrt().clamp(min=1e-12))


def _leave_rubbish(like: Tensor) -> None:
    """Give back memory that is full of NaN, in pieces of the sizes that a kernel may ask for next."""
    for numbers in (1 << 12, 1 << 18, like.numel(), 4 * like.numel()):
        torch.full((numbers,), torch.nan, dtype=like.dtype)
