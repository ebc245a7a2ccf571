"""Does this machine compute convolutions right? Each shape is looked at once, when it is first met, and kept.

What was found lies in .items/numerics/<machine>/, a file a convolution (``models.convolutions``), where the machine is
its processor, the version of torch and the instructions that oneDNN may use. The looking is done in another process,
because a wrong kernel may crash or never end, with all memory that it is given filled: a number that is read but was
never written is wrong for sure. That process is this module run as a program: a line of JSON in, a line out.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch

from models import convolutions
from models.convolutions import Convolution, Guard
from models.inference import Precision, computing_in, naming_layers
from stages.core import items

FOLDER = "numerics"
"""Below the item cache."""
SECONDS = 120
"""After which a kernel that does not end is given up."""
FILL = "128"
"""MALLOC_PERTURB_: glibc fills what it hands out with bytes 0x7f, 3e38 as bfloat16 and as float32."""


class Checked:
    """How one network predicts: by kernels that were found right on this machine."""

    def __init__(self) -> None:
        self._guard = guard()
        self._right: set[Any] = set()

    @contextmanager
    def __call__(self, precision: Precision, device: torch.device, *seen: Any) -> Iterator[None]:
        """A context to predict in ``precision``; ``seen`` are the tensors, or shapes, that decide all others.

        The first time that they are of these shapes every convolution is looked at; where all are right, no more.
        """
        key = (precision, torch.get_num_threads(), *(tuple(getattr(one, "shape", one)) for one in seen))
        with computing_in(precision, device):
            if device.type != "cpu" or key in self._right:
                yield
                return
            with self._guard:
                yield
        if not self._guard.found_wrong:
            self._right.add(key)


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
    try:
        return str(json.loads(path.read_text())["fault"])
    except (FileNotFoundError, json.JSONDecodeError):
        fault = look(convolution)
    if fault:
        print(f"numerics: {convolution}: {fault}; it is computed in another way here (docs/gotchas.md)")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    content = {"machine": machine(), "convolution": asdict(convolution), "says": str(convolution), "fault": fault}
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, path)
    return fault


def look(convolution: Convolution) -> str:
    """``convolutions.fault`` in a process of its own; a crash there is a fault, and so is that it does not end."""
    looker = _looker()
    assert looker.stdin is not None and looker.stdout is not None
    try:
        looker.stdin.write(json.dumps(asdict(convolution)) + "\n")
        looker.stdin.flush()
    except BrokenPipeError:
        pass  # the answer is missing, too
    answer = looker.stdout.readline()
    if answer:
        return str(json.loads(answer))
    _looker.cache_clear()
    code = looker.wait()
    if code >= 0:
        raise RuntimeError(f"the process that looks at {convolution} ended with exit code {code}")
    if -code in (signal.SIGKILL, signal.SIGTERM):
        raise RuntimeError(f"the process that looks at {convolution} was ended from outside, by signal {-code}")
    return "it does not end" if -code == signal.SIGALRM else f"it crashes (signal {-code})"


@dataclass(frozen=True)
class Known:
    """What was found on this machine: number of convolutions by type, and those that are wrong, with why."""

    looked_at: Counter[str]
    wrong: dict[str, str]


def known() -> Known:
    """What ``verdict`` has kept."""
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(_folder().glob("[!.]*.json"))]
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


@cache
def _looker() -> "subprocess.Popen[str]":
    """The process that looks; it ends when this one does, with its standard input."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "stages.core.numerics"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "MALLOC_PERTURB_": FILL},
    )


def main() -> None:
    """Answer each line of standard input, a ``Convolution`` as JSON, by ``fault`` of it; end with the input."""
    for line in sys.stdin:
        values = json.loads(line).items()
        asked: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values}
        signal.alarm(SECONDS)  # ends this process
        found = convolutions.fault(Convolution(**asked))
        signal.alarm(0)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
