"""The process in which a kernel is looked at: a wrong one may crash, or never end.

All memory that it is given is filled, so that a number that is read but was never written is wrong for sure. It is this
module run as a program: a line of JSON in, a line out.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from models.parts import convolutions
from models.parts.convolutions import Convolution

SECONDS = 300
"""Of a core's work, after which a kernel that does not end is given up: at `paper` size the largest takes 60."""
PATIENCE = 3600
"""Seconds after which nobody waits any more, and nothing is said of the kernel."""
FILL = "128"
"""MALLOC_PERTURB_: glibc fills what it hands out with bytes 0x7f, 3e38 as bfloat16 and as float32."""
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
"""Signals by which a kernel ends its process; other ones come from outside and say nothing of it."""


def look(convolution: Convolution) -> str:
    """``convolutions.fault`` in a process of its own; a crash there is a fault, and so is that it does not end.

    Raises ``RuntimeError`` where that process was ended by something else, or can't say.
    """
    looker = _looker()
    assert looker.process.stdin is not None and looker.process.stdout is not None
    answer = ""
    try:
        with contextlib.suppress(BrokenPipeError):  # then the answer is missing, too
            looker.process.stdin.write(json.dumps(asdict(convolution)) + "\n")
            looker.process.stdin.flush()
            answer = looker.process.stdout.readline()
        if answer:
            return str(json.loads(answer))
        code = looker.process.wait()
    finally:
        if not answer:  # nor may the answer to this question be taken for that to the next one
            _looker.cache_clear()
            looker.process.kill()
    if -code in CRASHES:
        return f"it crashes (signal {-code})"
    if -code == signal.SIGPROF:
        return "it does not end"
    raise RuntimeError(f"the process that looks at {convolution} ended with {code}: {looker.last_words()}")


@dataclass(frozen=True)
class Looker:
    """The process that looks, which ends when this one does, with its standard input; and what it complains of."""

    process: "subprocess.Popen[str]"
    errors: IO[str]

    def last_words(self) -> str:
        """The last line that it wrote to standard error."""
        self.errors.seek(0)
        return (self.errors.read().strip().splitlines() or ["it says nothing"])[-1]


@cache
def _looker() -> Looker:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.core.kernel_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "MALLOC_PERTURB_": FILL},
        start_new_session=True,  # Ctrl-C is for the one who asks
    )
    return Looker(process, errors)


def main() -> None:
    """Answer each line of standard input, a ``Convolution`` as JSON, by ``fault`` of it; end with the input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints (ONEDNN_VERBOSE) is no answer
    for line in sys.stdin:
        values = json.loads(line).items()
        asked: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values}
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of work, whatever else the machine does; ends this process
        signal.alarm(PATIENCE)
        found = convolutions.fault(Convolution(**asked))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
