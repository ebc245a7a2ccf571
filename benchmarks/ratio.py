"""What every benchmark gives: one ratio, and how it is printed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """``seconds`` of what is claimed over ``against`` seconds of what it is compared with, both of this run."""

    name: str
    claim: str
    seconds: float
    against: float
    of: str  # what was measured: clips, stages

    @property
    def value(self) -> float:
        return self.seconds / self.against

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.2f} = {self.seconds:.2f} s / {self.against:.2f} s; {self.claim} ({self.of})"


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
