"""How fast SSA2D labels a window at its published size: against itself written plainly, against the region masks
method, and against the number of actors (Rana and Rawat 2021: 67 ms a frame of RGB, 180 of RGB + flow, 11 and 6 times
faster than Dang et al. with 1,100, on one K80).

The plain form has the same layers and weights: PyTorch's own layout, inputs padded by copies, batch norms one by one,
coarser maps brought to size before they are convolved, and every pair's probability at every pixel. Random weights: the
time does not depend on them.
"""

import copy
import statistics
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Annotated, Any, get_args

import psutil
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ratio import Ratio, seconds
from models import ssa2d
from models.base import Batch, Labels, PairScores, Predictions, configuration
from models.parts.folding import Precision, computing_in, for_inference
from models.parts.i3d import Pool, Unit, pad, same_padding
from stages.commands import measuring, profile
from stages.core import cli, numerics
from stages.core.datasets.labels import A2D
from stages.core.runs import FULL

SIDE = 224
"""Pixels of SSA2D's square input."""
OTHERS = ("region_masks", "joint", "sentence")
"""Methods that SSA2D is measured beside, the one that it is compared with first."""
PUBLISHED = {
    "rgb": {"region_masks": 750, "ssa2d": 67},
    "rgb+flow": {"region_masks": 1100, "joint": 350, "ssa2d": 180},
}
"""Milliseconds a frame on one K80."""
KERAS_MS = 72
"""Milliseconds a frame of the released code, RGB, on two cores of the kind of machine that this project was made on."""
ACTORS = (1, 2, 4, 8, 16, 32)


def plainly(network: nn.Module, labels: Labels) -> nn.Module:
    """A copy of ``network`` that computes the same in the plain form."""
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if isinstance(module, Unit):
            module.forward = MethodType(_plain_unit, module)
        elif isinstance(module, Pool):
            module.forward = MethodType(_plain_pool, module)
        elif isinstance(module, ssa2d.Pointwise):
            module.forward = MethodType(_plain_pointwise, module)
        elif isinstance(module, PairScores):
            module.forward = partial(_plain_pairs, torch.tensor(labels.valid_ids), labels.stride)  # type: ignore[method-assign]
    return plain


def measure(config: str = "paper", *, precision: Precision = "float32", side: int = SIDE, repeats: int = 3) -> Ratio:
    """All frames of one window of RGB, on the threads that PyTorch has: as the pipeline predicts them / plainly."""
    network, batch = _network(config), _batch(config, side=side)
    plain = plainly(network, A2D)  # first: the other form changes the network itself
    ready = for_inference(network)

    def ours() -> None:
        with computing_in(precision, torch.device("cpu")):
            _label(ready, batch)

    tasks: list[Callable[[], None]] = [ours, partial(_label, plain, batch)]
    for task in tasks:
        task()
    ours_seconds, plain_seconds = _in_turn(tasks, repeats)
    name = "inference" if precision == "float32" else f"inference_{precision}"
    claim = f"ssa2d in {precision}, folded, channels last, padded by the convolutions / plain eager float32"
    frames = batch["frames"].shape[1]
    return Ratio(name, claim, ours_seconds, plain_seconds, f"{frames} frames of {side} x {side}, {config}")


def measure_checked(
    config: str = "paper", *, precision: Precision = "bfloat16", side: int = SIDE, repeats: int = 3
) -> Ratio:
    """The second window of one size and those after it: by kernels that were found right / by those that there are."""
    network, batch, checked = for_inference(_network(config)), _batch(config, side=side), numerics.Checked()
    device = torch.device("cpu")

    def ours() -> None:
        with checked(precision, device, batch["frames"]):
            _label(network, batch)

    def unchecked() -> None:
        with computing_in(precision, device):
            _label(network, batch)

    first = seconds(ours)  # looks at all kernels, or reads what was found
    ours_seconds, unchecked_seconds = _in_turn([ours, unchecked], repeats)
    claim = f"ssa2d in {precision}, every kernel known to be right / unchecked; the first window took {first:.1f} s"
    frames = batch["frames"].shape[1]
    return Ratio(
        "inference_checked", claim, ours_seconds, unchecked_seconds, f"{frames} frames of {side} x {side}, {config}"
    )


def against_actors(config: str = "paper", *, side: int = SIDE, repeats: int = 3) -> dict[int, tuple[float, float]]:
    """Number of actors -> seconds a window, and the most megabytes that were in use up to its first one."""
    memory = measuring.PeakMemory(torch.device("cpu"))
    network = for_inference(_network(config))
    tasks = {actors: partial(_label, network, _batch(config, side=side, actors=actors)) for actors in ACTORS}
    megabytes = {}
    for actors, task in tasks.items():
        task()
        megabytes[actors] = memory.growth_megabytes()
    times = _in_turn(list(tasks.values()), repeats)
    return {actors: (time, megabytes[actors]) for actors, time in zip(ACTORS, times, strict=True)}


def _network(config: str) -> Any:
    return ssa2d.build(configuration(ssa2d, config, inputs="rgb", variant=FULL), A2D).eval()


def _batch(config: str, *, side: int, actors: int = 1) -> Batch:
    """One window of noise on which ``actors`` squares lie."""
    length = getattr(ssa2d, config).window.length
    frames = torch.randint(0, 64, (1, length, side, side, 3), dtype=torch.uint8)
    for actor in range(actors):
        top, left = (actor // 6) * side // 6, (actor % 6) * side // 6
        frames[:, :, top : top + side // 8, left : left + side // 8] += 100
    return Batch(frames=frames)


def _label(network: Any, batch: Batch) -> None:
    network.predict_frames(batch, range(batch["frames"].shape[1]))


def _in_turn(tasks: list[Callable[[], None]], repeats: int) -> list[float]:
    """Median seconds of each, measured in turn, so that other work on the machine slows all alike."""
    rounds = [[seconds(task) for task in tasks] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def _plain_unit(unit: Unit, x: Tensor) -> Tensor:
    conv = unit.conv3d
    return F.relu(unit.bn(F.conv3d(_padded(x, conv.kernel_size, conv.stride), conv.weight, None, conv.stride)))


def _plain_pool(pool: Pool, x: Tensor) -> Tensor:
    return F.max_pool3d(_padded(x, pool.kernel, pool.stride), pool.kernel, pool.stride)


def _plain_pointwise(pointwise: ssa2d.Pointwise, maps: list[Tensor]) -> Tensor:
    size = list(maps[0].shape[2:])
    return F.conv3d(torch.cat([F.interpolate(x, size=size) for x in maps], dim=1), pointwise.weight, pointwise.bias)


def _padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return pad(x, *same_padding(x.shape[2:], kernel, stride))


def _plain_pairs(ids: Tensor, stride: int, actor: Tensor, action: Tensor) -> Predictions:
    pairs = actor.log_softmax(1)[:, ids // stride] + action.log_softmax(1)[:, ids % stride]  # (B, P, H, W)
    joint, best_actor, best_action = (scores.argmax(1) for scores in (pairs, actor, action))
    return Predictions(ids[joint].byte(), best_actor.byte(), best_action.byte())


def main(
    config: Annotated[str, typer.Option(help="paper or small")] = "paper",
    side: Annotated[int, typer.Option(help="of SSA2D's input, in pixels", min=32)] = SIDE,
    repeats: Annotated[int, typer.Option(help="the median counts", min=1)] = 3,
) -> None:
    """SSA2D against itself, against region masks on A2D's frames, and against the number of actors."""
    console = Console()
    # First: memory that other networks leave to the process would hide what this one takes.
    of_actors = against_actors(config, side=side, repeats=repeats)
    for precision in get_args(Precision):
        console.print(str(measure(config, precision=precision, side=side, repeats=repeats)))
    table = Table("inputs", "method", "ms a frame", "with flow", "share of peak", "times faster", "published")
    for inputs in PUBLISHED:
        # Methods that look at windows around a frame at A2D's frames; SSA2D at its square input, all frames at once.
        others = [profile.run(name, inputs, config, frames=1, repeats=repeats) for name in OTHERS]
        single = profile.run("ssa2d", inputs, config, height=side, width=side, repeats=repeats)
        for result in (*others, single):
            times, published = result["ms_per_frame"], PUBLISHED[inputs].get(result["method"])
            faster = others[0]["ms_per_frame"]["with_flow"] / times["with_flow"]
            table.add_row(
                inputs, result["method"], f"{times['without_flow']:.0f}", f"{times['with_flow']:.0f}",
                f"{100 * result['share_of_convolution_peak']:.0f} %", f"{faster:.1f}",
                "" if published is None else f"{published} ms, {PUBLISHED[inputs][OTHERS[0]] / published:.0f} times",
            )  # fmt: skip
    console.print(table)
    console.print(f"released Keras code, RGB: {KERAS_MS} ms a frame on two cores; this machine: {psutil.cpu_count()}")
    for actors, (time, megabytes) in of_actors.items():
        console.print(f"{actors} actors: {time:.2f} s a window, at most {megabytes:.0f} MB so far")


if __name__ == "__main__":
    cli.run(main)
