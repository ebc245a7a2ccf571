"""What a machine can do and what a function costs on it: time, operations, memory, the peak of a plain convolution."""

import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.parts.network import channels_last

PEAK_SHAPE = (8, 256, 56, 56)
"""(B, C, H, W) of the plain convolution, 3 x 3 and C to C: 29.6 GFLOP, enough to fill any core or GPU."""


def convolution_peak(device: torch.device, repeats: int) -> float:
    """Operations per second of one plain convolution: what this machine, with these threads, can do."""
    channels = PEAK_SHAPE[1]
    plain = channels_last(torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)).to(device).eval()
    x = torch.randn(PEAK_SHAPE, device=device).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        plain(x)
        return operations(lambda: plain(x)) / min(_seconds(lambda: plain(x), device) for _ in range(repeats))


class PeakMemory:
    """The growth of the highest memory in use since here: CUDA's own count, or this process's resident set."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 1e6
            return
        # `5` sets the process's high-water mark back; where the kernel refuses, an earlier peak hides a smaller one.
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._before = self._resident_peak()
            return
        self._before = psutil.Process().memory_info().rss / 1e6

    def growth_megabytes(self) -> float:
        peak = torch.cuda.max_memory_allocated() / 1e6 if self._cuda else self._resident_peak()
        return max(0.0, peak - self._before)

    @staticmethod
    def _resident_peak() -> float:
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def operations(function: Callable[[], Any]) -> int:
    """Floating point operations of a call, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def median_seconds(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """The median of ``repeats`` calls."""
    return statistics.median(_seconds(function, device) for _ in range(repeats))
