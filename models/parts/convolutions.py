"""Convolutions whose kernels are known to be right: each is compared with float64 before its numbers are used.

oneDNN chooses a kernel by shape, layout, type and processor, and some of those kernels are wrong, silently: 3 x 3 x 3
ones in bfloat16 on processors with AMX, the gradients of 1 x 1 ones with stride 2 on processors without AVX-512
(docs/gotchas.md). ``fault`` says what is wrong with one convolution, ``Guard`` computes those that are wrong without
that kernel.

Axes: N batch, C channels, O outputs of G groups, then time, height and width.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest error of a number that is no fault, as a share of the usual size of the numbers: sound kernels show at most
4e-5 and 0.03 over thousands of random shapes, wrong ones mostly 1 and more."""
REPEATS = 3
"""Numbers that come from memory nobody wrote change from call to call. Of a kernel that takes long, once."""
LONG = 2e10
"""Multiplications after which a kernel takes long."""
MOST = 2
"""Of a batch: more of the same are computed by the same kernel."""
TOGETHER = 16
"""Outputs that are compared by one sum of them: among many one that is wrong would not be seen."""

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
    def fan_in(self) -> int:
        """Numbers that an output is made of."""
        return self.input[1] // self.groups * math.prod(self.weight[2:])

    @property
    def takes_long(self) -> bool:
        """By the number of its multiplications."""
        steps = (1,) * len(self.stride) if self.transposed else self.stride
        places = math.prod(-(-size // step) for size, step in zip(self.input[2:], steps, strict=True))
        return self.input[0] * math.prod(self.weight) * places > LONG

    @property
    def settings(self) -> tuple[Any, ...]:
        """What ATen's operators are given behind input, weight and bias."""
        places = (self.stride, self.padding, self.dilation)
        return (*map(list, places), self.transposed, list(self.output_padding), self.groups)


def described(x: Tensor, weight: Tensor, *, bias: bool, settings: Sequence[Any], backward: bool) -> Convolution:
    """The convolution that ATen is asked for; of a batch of ``MOST``, whatever the batch."""
    stride, padding, dilation, transposed, output_padding, groups = settings
    return Convolution(
        input=(MOST, *x.shape[1:]),
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

    Random numbers are convolved, and sums of ``TOGETHER`` outputs, each with a factor of its own, are compared with the
    convolution by the same sums of the weights, which is computed in float64 (Freivalds' check of a product). So an
    output that is wrong is seen at a sixteenth of the cost, and nothing is as large as the kernel's own tensors.
    """
    torch.set_num_threads(convolution.threads)
    generator = torch.Generator().manual_seed(0)
    dtype, groups = getattr(torch, convolution.dtype), convolution.groups
    x = _random(convolution.input, convolution.input_strides, dtype, generator)
    weight = _random(convolution.weight, convolution.weight_strides, dtype, generator, scale=convolution.fan_in**-0.5)
    bias = torch.randn(convolution.outputs, generator=generator).to(dtype) if convolution.bias else None
    factors = _factors(convolution.outputs // groups, generator)  # (S, O / G)
    sums = _summed_weight(convolution, weight, factors)  # (G, S, K, C / G) for K cells of the kernel
    offsets = 0.0 if bias is None else factors @ bias.double().view(groups, -1, 1)  # (G, S, 1)
    size = float(factors.square().sum(1).sqrt().min())

    y = FORWARD(x, weight, bias, *convolution.settings)  # (N, O, ...)
    repeats = 1 if convolution.takes_long else REPEATS
    cells = list(_cells(convolution, y.shape[2:]))
    exact = torch.stack([_summed(_of_groups(one, groups), sums, cells, y.shape[2:]) for one in x])
    exact = exact.flatten(3) + offsets  # (N, G, S, places)
    worst = 0.0
    for repeat in range(repeats):
        if repeat:
            _leave_rubbish(x)
            y = FORWARD(x, weight, bias, *convolution.settings)
        for outputs, expected in zip(y, exact, strict=True):
            worst = max(worst, _error(factors @ _of_groups(outputs, groups).flatten(2), expected, size=0.3 * size))
    if not worst <= TOLERANCE[convolution.dtype]:
        return f"its numbers are off by {worst:.2g} of their size"
    if not convolution.backward:
        return ""

    # The upstream gradient is a random field for each group, times the factor that each output has in its sum.
    field = torch.randn(len(x), groups, 1, *y.shape[2:], generator=generator, dtype=torch.float64)
    factor = factors.sum(0)  # (O / G,)
    upstream = torch.empty_like(y).copy_((factor.view(-1, *[1] * len(cells[0][0])) * field).flatten(1, 2))
    of_samples, gathered = [], torch.zeros(groups, sums.shape[2], sums.shape[3], dtype=torch.float64)
    for one, places in zip(x, field, strict=True):
        of_sample, of_cells = _gradients(_of_groups(one, groups), places, sums.sum(1), cells)
        of_samples.append(of_sample)
        gathered += of_cells
    exact_weight = factor[:, None, None] * gathered[:, None]  # (G, O / G, K, C / G)
    exact_bias = factor * field.transpose(0, 1).flatten(1).sum(1)[:, None]  # (G, O / G)
    mask, sizes = [True, True, bias is not None], None if bias is None else [convolution.outputs]
    for _ in range(repeats):
        _leave_rubbish(x)
        of_x, of_weight, of_bias = BACKWARD(upstream, x, weight, sizes, *convolution.settings, mask)
        for gradient, expected in zip(of_x, of_samples, strict=True):
            worst = max(worst, _error(_of_groups(gradient, groups), expected))
        worst = max(worst, _error(_cells_last(convolution, of_weight.double()), exact_weight))
        if of_bias is not None:
            worst = max(worst, _error(of_bias.double().view(groups, -1), exact_bias))
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
        if x.device.type != "cpu" or self._is_right(x, weight, has_bias, settings):
            return func(*args)
        if x.dtype == torch.float32:
            before, *_ = torch.backends.mkldnn.set_flags(False)
            try:
                return func(*args)
            finally:
                torch.backends.mkldnn.set_flags(before)
        exact = [None if tensor is None else tensor.float() for tensor in tensors]
        if func is FORWARD:
            return self.__torch_dispatch__(func, types, (*exact, *settings)).to(x.dtype)
        found = self.__torch_dispatch__(func, types, (*exact, sizes, *settings, mask))
        return tuple(None if gradient is None else gradient.to(x.dtype) for gradient in found)

    def _is_right(self, x: Tensor, weight: Tensor, bias: bool, settings: Sequence[Any]) -> bool:
        shape = x.shape[1:]
        key = (shape, x.stride(), weight.shape, weight.stride(), x.dtype, bias, *(str(value) for value in settings))
        right = self._known.get(key)
        if right is None:
            asked = described(x, weight, bias=bias, settings=settings, backward=self._backward)
            right = asked.dtype not in TOLERANCE or not math.prod(shape)
            if not right:
                # For one alone and for several: how many boxes a frame has nobody knows before. But what takes long is
                # of whole frames.
                sizes = {min(len(x), MOST)} if asked.takes_long else {1, MOST}
                batches = [replace(asked, input=(size, *shape)) for size in sorted(sizes - {0})]
                right = not any([self._verdict(batch) for batch in batches])
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


def _factors(outputs: int, generator: torch.Generator) -> Tensor:
    """(S, O): a factor for each output in one of the sums, 0 in the others; in one sum no two are alike."""
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    values = torch.outer(signs, torch.linspace(1, 2, TOGETHER // 2, dtype=torch.float64)).flatten()
    count = -(-outputs // TOGETHER)
    drawn = torch.cat([values[torch.randperm(TOGETHER, generator=generator)] for _ in range(count)])[:outputs]
    which = torch.arange(outputs) // TOGETHER
    return drawn * (which == torch.arange(count)[:, None])


def _of_groups(x: Tensor, groups: int) -> Tensor:
    """(C, ...) to (G, C / G, ...) in float64."""
    return x.double().unflatten(0, (groups, -1))


def _cells_last(convolution: Convolution, weight: Tensor) -> Tensor:
    """Weights as (G, O / G, K, C / G), K cells of the kernel; of a transposed one they begin with C."""
    by_group = weight.flatten(2).unflatten(0, (convolution.groups, -1))  # (G, O / G, C / G, K), or with C / G first
    return by_group.permute(0, 2, 3, 1) if convolution.transposed else by_group.transpose(2, 3)


def _summed_weight(convolution: Convolution, weight: Tensor, factors: Tensor) -> Tensor:
    """Sums of the weights over outputs, times ``factors`` (S, O / G): (G, S, K, C / G)."""
    return torch.einsum("so,gokc->gskc", factors, _cells_last(convolution, weight.double()))


Places = tuple[slice, ...]


def _summed(x: Tensor, sums: Tensor, cells: Sequence[tuple[Any, Any]], outputs: Sequence[int]) -> Tensor:
    """(G, C / G, ...) convolved by ``sums`` (G, S, K, C / G): (G, S, ...). Cell by cell, for want of memory."""
    found = x.new_zeros(*sums.shape[:2], *outputs)
    for cell, (there, here) in enumerate(cells):
        seen = x[(..., *there)]
        found[(..., *here)] += (sums[:, :, cell] @ seen.flatten(2)).view(*sums.shape[:2], *seen.shape[2:])
    return found


def _gradients(x: Tensor, field: Tensor, sums: Tensor, cells: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Of ``x`` (G, C / G, ...) and of the cells' weights (G, K, C / G), ``field`` (G, 1, ...) being the upstream one
    and ``sums`` (G, K, C / G) what it meets."""
    of_x, of_cells = torch.zeros_like(x), torch.zeros_like(sums)
    for cell, (there, here) in enumerate(cells):
        upstream = field[(..., *here)]
        of_x[(..., *there)] += sums[:, cell].view(*x.shape[:2], *[1] * (x.dim() - 2)) * upstream
        of_cells[:, cell] = (x[(..., *there)].flatten(2) @ upstream.flatten(2).transpose(1, 2))[..., 0]
    return of_x, of_cells


def _cells(convolution: Convolution, outputs: Sequence[int]) -> Iterator[tuple[Places, Places]]:
    """For each cell of the kernel the places of the input, and the outputs that they fall on."""
    for cell in itertools.product(*map(range, convolution.weight[2:])):
        steps = zip(convolution.stride, convolution.padding, convolution.dilation, strict=True)
        pairs = []
        for at, (stride, padding, dilation), inputs, output in zip(
            cell, steps, convolution.input[2:], outputs, strict=True
        ):
            shift = at * dilation - padding
            if convolution.transposed:  # input i falls on output i * stride + shift
                pairs.append(_strided(inputs, output, stride, shift))
            else:  # output o sees input o * stride + shift
                pairs.append(_strided(output, inputs, stride, shift)[::-1])
        yield tuple(there for there, _ in pairs), tuple(here for _, here in pairs)


def _strided(count: int, length: int, stride: int, shift: int) -> tuple[slice, slice]:
    """The numbers below ``count`` for which number * stride + shift lies in ``length``, and where it lies."""
    first = max(0, -(shift // stride))
    end = max(first, min(count, (length - 1 - shift) // stride + 1))
    start = first * stride + shift
    return slice(first, end), slice(start, start + (end - first) * stride, stride)


def _error(numbers: Tensor, exact: Tensor, *, size: float = 0.0) -> float:
    """Largest difference as a share of the root mean square of what is exact, or of ``size`` where that is larger.

    Infinite where a number is not finite.
    """
    if not numbers.numel():
        return 0.0
    if not numbers.isfinite().all():
        return math.inf
    return float((numbers - exact).abs().max() / exact.square().mean().sqrt().clamp(min=max(size, 1e-12)))


def _leave_rubbish(like: Tensor) -> None:
    """Give back memory that is full of NaN, in pieces of the sizes that a kernel may ask for next."""
    for numbers in (1 << 12, 1 << 18, like.numel(), 4 * like.numel()):
        torch.full((numbers,), torch.nan, dtype=like.dtype)
