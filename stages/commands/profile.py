"""``python -m stages.commands.profile --method=M --inputs=I --config=paper|small``: what one method costs on this
machine.

No stage of dvc.yaml: times are not reproducible, so they lie outside hashed outputs, in
.items/profiles/<method>-<inputs>-<config>.json, from where MLflow shows them. Labels windows of a made-up moving clip
one at a time, all frames of each where the method does so at once (ssa2d), and measures ms per frame without and with
flow estimation, parameters, peak memory, and the share of the convolution peak: operations per second over those of one
plain convolution, timed in the same run with the same threads. One profile at a time on a machine: a second one waits.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import psutil
import torch
import typer
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from models import methods, region_masks
from models.base import configuration
from models.parts import fcis
from models.parts.folding import for_inference
from models.parts.network import choose_device, parameter_count, to_device
from models.parts.text import WORD_CHANNELS
from stages.commands.measuring import PeakMemory, convolution_peak, median_seconds, operations
from stages.core import cli, items
from stages.core.batches import window_batches, windows
from stages.core.batches.windows import Sample
from stages.core.datasets.labels import A2D
from stages.core.optical_flow import dis
from stages.core.params import nearest
from stages.core.runs import FULL, INPUTS

FULL_HEIGHT, FULL_WIDTH = 320, 568
"""A2D's usual frame: the height of every clip, and the most frequent width."""
WORDS = 8
"""Of a sentence."""
BUSY_PERCENT = 15
"""Load by others, in percent of all cores, above which a result says that it was not alone."""
LOCK = Path(tempfile.gettempdir()) / "actor-action-profile.lock"


def run(
    method: str, inputs: str, config_name: str, *, height: int = 0, width: int = 0, frames: int = 4, repeats: int = 5,
) -> dict[str, Any]:  # fmt: skip
    """Measure and write the JSON; ``frames`` windows are seen in each of ``repeats``, of which the median counts.

    ``height`` 0 is the configuration's own, else A2D's; ``width`` 0 keeps A2D's aspect. Raises ``ValueError`` for a
    method, inputs or sizes that do not exist.
    """
    if inputs not in INPUTS:
        raise ValueError(f"--inputs={inputs}{nearest(inputs, list(INPUTS))}")
    if min(frames, repeats) < 1 or min(height, width) < 0:
        raise ValueError("--frames and --repeats are at least 1, --height and --width at least 0 (0: by itself)")
    module = methods.method(method)
    config = configuration(module, config_name, inputs=inputs, variant=FULL)
    height = height or config.height or FULL_HEIGHT
    width = width or 2 * round(height * FULL_WIDTH / FULL_HEIGHT / 2)
    with FileLock(LOCK):
        others = psutil.cpu_percent(interval=0.5)
        result = {
            "method": method, "inputs": inputs, "config": config_name, "height": height, "width": width,
            "window": len(_numbers(0, config)), "frames": frames, "repeats": repeats,
            **_measure(module, config, config_name, inputs, height=height, width=width, frames=frames, repeats=repeats),
            "load_of_others_percent": others, "alone": others < BUSY_PERCENT, "torch": torch.__version__,
        }  # fmt: skip
    _write(items.CACHE / "profiles" / f"{method}-{inputs}-{config_name}.json", result)
    return result


def _measure(
    module: Any, config: Any, config_name: str, inputs: str, *, height: int, width: int, frames: int, repeats: int
) -> dict[str, Any]:
    device = choose_device()
    clip = moving_clip(frames + 1, height, width)
    memory = PeakMemory(device)
    network = build(module, config, config_name, inputs).to(device)
    parameters = parameter_count(network)
    for_inference(network)
    flow = np.zeros((height, width, 2), np.float32)
    batches = [
        to_device(_window(clip, _numbers(number, config), config, flow=flow), device) for number in range(frames)
    ]
    predict, labelled = _predicting(network, config)

    def label() -> None:
        for batch in batches:
            predict(batch)

    def estimate_and_encode() -> None:
        for number in range(frames):
            fields = dis.estimate(clip[number], clip[number + 1])
            window_batches.ENCODINGS[config.flow_encoding](fields)

    label()
    network_seconds = median_seconds(label, repeats, device) / frames / labelled
    megabytes = memory.growth_megabytes()
    flow_seconds = median_seconds(estimate_and_encode, repeats, device) / frames if _has_flow(config) else 0.0
    gflop = operations(lambda: predict(batches[0])) / labelled / 1e9
    peak = convolution_peak(device, repeats)
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "parameters": parameters,
        "ms_per_frame": {"without_flow": 1e3 * network_seconds, "with_flow": 1e3 * (network_seconds + flow_seconds)},
        "peak_memory_mb": megabytes,
        "gflop_per_frame": gflop,
        "convolution_peak_gflops": peak / 1e9,
        "share_of_convolution_peak": 1e9 * gflop / network_seconds / peak,
    }


def build(module: Any, config: Any, config_name: str, inputs: str) -> Any:
    """The network of a method with random weights: with front-end and segmenter, where it labels region masks."""
    network = module.build(config, A2D)
    if module is not region_masks:
        return network
    baseline = methods.method("deeplab")
    front = baseline.build(configuration(baseline, config_name, inputs=inputs, variant=FULL), A2D)
    return region_masks.Pipeline(front, fcis.build(getattr(fcis, config_name), A2D.actors), network)


def moving_clip(frames: int, height: int, width: int) -> np.ndarray:
    """(T, H, W, 3) uint8: a smooth texture that moves 3 pixels a frame, something to estimate flow from."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width + 3 * frames, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.stack([texture[:, 3 * number : 3 * number + width] for number in range(frames)])


def _numbers(number: int, config: Any) -> list[int]:
    """Frames that the network sees at once to label frame ``number``, or the video that begins with it."""
    if hasattr(config, "window"):
        return windows.numbers(number, config.window)
    return list(range(number, number + config.test_frames))


def _predicting(network: Any, config: Any) -> tuple[Callable[[Any], Any], int]:
    """What is timed, and how many frames of a batch it labels: of a method on videos all."""
    if hasattr(network, "response"):
        return network.response, 1
    if hasattr(network, "scores"):
        return network.scores, config.test_frames
    if hasattr(network, "predict_frames"):
        labelled = range(config.window.length)
        return lambda batch: network.predict_frames(batch, labelled), len(labelled)
    return network.predict, 1


def _window(clip: np.ndarray, numbers: list[int], config: Any, *, flow: np.ndarray) -> Any:
    """The batch of these frames, asked about a sentence; those outside the clip are its first and last."""
    frames = clip[np.clip(numbers, 0, len(clip) - 1)]
    labels = np.zeros(frames.shape[:3], np.uint8)
    fields = np.broadcast_to(flow, (len(numbers), *flow.shape)) if _has_flow(config) else None
    batch = window_batches.to_batch([Sample(frames=frames, labels=labels, flow=fields)], encoding=config.flow_encoding)
    return {**batch, **window_batches.padded([np.ones((WORDS, WORD_CHANNELS), np.float32)])}


def _has_flow(config: Any) -> bool:
    """Does the method see flow? Those of one stream of RGB name none."""
    return "flow" in getattr(config, "streams", ())


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(part, path)


def _print(result: dict[str, Any]) -> None:
    name = f"{result['method']} {result['inputs']} {result['config']}, {result['height']} x {result['width']}"
    table = Table("measure", "value", title=f"{name}, {result['device']}, {result['threads']} threads")
    table.columns[1].justify = "right"
    times = result["ms_per_frame"]
    table.add_row("ms per frame, without flow estimation", f"{times['without_flow']:.1f}")
    table.add_row("ms per frame, with flow estimation", f"{times['with_flow']:.1f}")
    table.add_row("parameters", f"{result['parameters']:,}")
    table.add_row("peak memory, MB", f"{result['peak_memory_mb']:.0f}")
    table.add_row("GFLOP per frame", f"{result['gflop_per_frame']:.2f}")
    table.add_row("share of the convolution peak", f"{100 * result['share_of_convolution_peak']:.0f} %")
    console = Console()
    console.print(table)
    if not result["alone"]:
        busy = result["load_of_others_percent"]
        console.print(f"others used {busy:.0f} % of this machine: these times are no measurement; repeat them alone")


def main(
    method: Annotated[str, typer.Option(help=", ".join(methods.METHODS))],
    inputs: Annotated[str, typer.Option(help=", ".join(INPUTS))],
    config: Annotated[str, typer.Option(help="paper or small")] = "small",
    height: Annotated[int, typer.Option(help="of the frames; 0: the configuration's, else 320")] = 0,
    width: Annotated[int, typer.Option(help="of the frames; 0: A2D's aspect")] = 0,
    frames: Annotated[int, typer.Option(help="windows seen in each repeat")] = 4,
    repeats: Annotated[int, typer.Option(help="the median counts")] = 5,
) -> None:
    """Measure what one method costs on this machine."""
    _print(run(method, inputs, config, height=height, width=width, frames=frames, repeats=repeats))


if __name__ == "__main__":
    cli.run(main)
