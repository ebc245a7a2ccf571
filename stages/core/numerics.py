"""Does this machine compute convolutions right? Each shape is looked at once, when it is first met, and kept.

What was found lies in .items/numerics/<machine>/, a file a convolution (``models.parts.convolutions``), where the
machine is its processor, the version of torch and the instructions that oneDNN may use.
"""

import json
import os
import platform
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch.utils._pytree import tree_leaves

from models.parts.convolutions import Convolution, Guard
from models.parts.folding import Precision, computing_in, naming_layers
from stages.core import items
from stages.core.kernel_process import look

FOLDER = "numerics"
"""Below the item cache."""


class Checked:
    """How one network predicts: by kernels that were found right on this machine."""

    def __init__(self) -> None:
        self._guard = guard()
        self._right: set[Any] = set()

    @contextmanager
    def __call__(self, precision: Precision, device: torch.device, *seen: Any) -> Iterator[None]:
        """A context to predict in ``precision``; ``seen`` are tensors, or shapes, that decide which layers see what.

        The first time that they are of these shapes, but for the batch, every convolution is looked at; where all are
        right, no more. Without any, always: where what is found decides which layers run.
        """
        key = (precision, torch.get_num_threads(), *map(_shape, seen))
        with computing_in(precision, device):
            if device.type != "cpu" or key in self._right:
                yield
                return
            with self._guard:
                yield
        if seen and not self._guard.found_wrong:
            self._right.add(key)


class Rehearsed:
    """When a training is to be looked after: with batches of new shapes, and always once something was wrong."""

    def __init__(self) -> None:
        self._guard = guard(backward=True)
        self._shapes: set[Any] = set()
        self._found_wrong = False

    @contextmanager
    def __call__(self, batch: Any) -> Iterator[None]:
        """A context for a step on ``batch``, gradients included."""
        shapes = frozenset(_shape(one) for one in tree_leaves(batch) if isinstance(one, torch.Tensor) and one.dim() > 2)
        if shapes in self._shapes and not self._found_wrong:
            yield
            return
        with self._guard:
            yield
        self._found_wrong |= self._guard.found_wrong
        self._shapes.add(shapes)


def _shape(seen: Any) -> tuple[int, ...]:
    """Of a tensor, but for its first axis; a shape is what it is."""
    return tuple(seen.shape[1:]) if isinstance(seen, torch.Tensor) else tuple(seen)


Decorator = Callable[[items.Compute], items.Compute]


def located(opened: Callable[[Path, str], Any], *, folder: str, digest: str) -> Decorator:
    """Have an item's function say which layer it is, where a network gives numbers that are not finite.

    ``opened`` gives what holds the ``network``, as the function opens it, of the folder and the digest that its
    argument has under these names. The function is run once more, each layer looked at: then ``FloatingPointError``
    names the network, the clip and the first layer.
    """

    def locating(function: items.Compute) -> items.Compute:
        @wraps(function)
        def compute(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
            try:
                function(argument, parameters, target)
            except FloatingPointError as error:
                path = Path(argument[folder])
                clip = argument.get("video") or Path(argument["path"]).stem
                layer = "no layer gives them when it is run again"
                try:
                    with naming_layers(opened(path, argument[digest]).network):
                        function(argument, parameters, target)
                except FloatingPointError as again:
                    if str(again) != str(error):
                        layer = str(again)
                raise FloatingPointError(f"{path.name}, clip `{clip}`: {error}; {layer}") from error

        return compute

    return locating


def guard(*, backward: bool = False) -> Guard:
    """A context in which convolutions, and with ``backward`` their gradients, are right or computed in another way."""
    return Guard(verdict, backward=backward)


def verdict(convolution: Convolution) -> str:
    """What is wrong with ``convolution`` on this machine, empty if nothing is; looked up, or found out and kept."""
    path = _folder() / f"{items.digest(asdict(convolution))}.json"
    if (known := _read(path)) is not None:
        return str(known["fault"])
    with _one_at_a_time(path.parent) as can_be_kept:
        if (known := _read(path)) is not None:
            return str(known["fault"])
        fault = look(convolution)
        if can_be_kept:
            content = {"machine": machine(), "convolution": asdict(convolution), "says": str(convolution)}
            _write(path, {**content, "fault": fault})
    if fault:
        print(f"numerics: {convolution}: {fault}; it is computed in another way here (docs/gotchas.md)")
    return fault


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[bool]:
    """Of processes side by side one looks, and the others read. Gives whether ``folder`` can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        print(f"numerics: what is found of this machine's kernels can't be kept ({error})")
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none, or a kill left half of it."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    handle, part = tempfile.mkstemp(prefix=".", dir=path.parent)  # a name of its own on every node
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    os.chmod(part, 0o644)
    os.replace(part, path)


@dataclass(frozen=True)
class Known:
    """What was found on this machine: number of convolutions by type, and those that are wrong, with why."""

    looked_at: Counter[str]
    wrong: dict[str, str]


def known() -> Known:
    """What ``verdict`` has kept."""
    found = map(_read, sorted(_folder().glob("[!.]*.json")))
    records = [record for record in found if record is not None]
    return Known(
        looked_at=Counter(record["convolution"]["dtype"] for record in records),
        wrong={record["says"]: record["fault"] for record in records if record["fault"]},
    )


@cache
def machine() -> dict[str, str]:
    """What decides which kernels there are and what they compute."""
    return {
        "processor": _processor(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")),
    }


def _processor() -> str:
    """Model and the instructions that it has, which a virtual machine may hide in part."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    first, _, _ = path.read_text().partition("\n\n")
    fields: dict[str, str] = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", first, re.MULTILINE))
    model = " ".join(fields.get(name, "") for name in ("model name", "cpu family", "model", "stepping"))
    flags = fields.get("flags") or fields.get("Features") or ""  # x86, ARM
    wide = sorted(flag for flag in flags.split() if WIDE.match(flag))
    return f"{model}: {' '.join(wide)}"


WIDE = re.compile("avx|amx|fma|sse4|asimd|sve|bf16|fphp")
"""Flags of instructions that oneDNN has kernels for."""


def _folder() -> Path:
    return items.CACHE / FOLDER / items.digest(machine())[:16]
