"""Child processes of a flow: every one under a guard (see guard.py), and one DVC stage as one child.

The flow holds the write end of each guard's standard input: whatever ends the flow ends the guards, and they theirs.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

GUARD = Path(__file__).with_name("guard.py")
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")
BUSY_WAIT_SECONDS = 2.0
GRACE_SECONDS = 8.0
"""From the request to end (TERM) to KILL."""
HINTS = (
    "To track the changes with git",
    "\tgit add ",
    "To enable auto staging",
    "\tdvc config core.autostage",
    "Use `dvc push`",
)
"""Advice that every `dvc repro` ends with; kept out of the log of a flow of many."""

Ending = Literal["ran", "restored", "unchanged"]


class StageFailed(RuntimeError):
    """``dvc repro -s STAGE`` ended with an error; ``why`` is the last line that says more than DVC's own last words."""

    def __init__(self, stage: str, code: int, last: Sequence[str]) -> None:
        said = [line for line in last if not line.startswith(("ERROR: failed to reproduce", "> ", "Running stage "))]
        self.why = (said or list(last) or [f"exit code {code}"])[-1]
        super().__init__(f"{stage} failed: {self.why}")


class Child:
    """A command under its guard. Standard output and error arrive together in ``lines``, or in ``output`` if given."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        root: Path = Path("."),
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
        grace: float = GRACE_SECONDS,
    ) -> None:
        # OMP_WAIT_POLICY: side by side, threads that spin while they wait take the cores from those that work.
        env = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "true"}
        env |= environment or {}
        # The commands in dvc.yaml say `python`: it has to be this one, also when its environment isn't activated.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
        with contextlib.ExitStack() as stack:
            target = subprocess.PIPE if output is None else stack.enter_context(output.open("ab"))
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(grace), *command],
                stdin=subprocess.PIPE,
                stdout=target,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=root,
                env=env,
            )
        self.pid = self._guard.pid

    def lines(self) -> Iterator[str]:
        """Lines as they come; of a progress bar that redraws one line, what it showed last. Ends with the command."""
        assert self._guard.stdout is not None, "the output goes to a file"
        for raw in self._guard.stdout:
            line = raw.decode(errors="replace").rstrip().rpartition("\r")[2]
            if line:
                yield line

    @property
    def is_alive(self) -> bool:
        return self._guard.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; 128 + N if signal N ended the command. Raises ``subprocess.TimeoutExpired``."""
        return self._guard.wait(timeout)

    def ask_to_end(self) -> None:
        """Have the guard end the command; returns at once."""
        if self.is_alive:
            self._guard.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Free the pipes of a command that has ended."""
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()


class Children:
    """All children of a flow: ``with Children() as children`` leaves none behind. Safe to use from many threads."""

    def __init__(self) -> None:
        self._alive: set[Child] = set()
        self._lock = threading.Lock()
        self._ending = False

    def start(
        self,
        command: Sequence[str],
        *,
        root: Path = Path("."),
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
        grace: float = GRACE_SECONDS,
    ) -> Child:
        """Start ``command``; raises ``RuntimeError`` once the flow is ending."""
        with self._lock:
            if self._ending:
                raise RuntimeError("the flow is ending; nothing new is started")
            child = Child(command, root=root, environment=environment, output=output, grace=grace)
            self._alive.add(child)
        return child

    def run(
        self,
        command: Sequence[str],
        *,
        log: Callable[[str], None],
        root: Path = Path("."),
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Run ``command`` to its end, each line of output to ``log`` as it comes; returns the exit code."""
        child = self.start(command, root=root, environment=environment)
        try:
            for line in child.lines():
                log(line)
            return child.wait()
        finally:
            self.end(child)

    def end(self, child: Child) -> None:
        """End one child and wait until it and all that it started are gone."""
        child.ask_to_end()
        child.wait()
        child.close()
        with self._lock:
            self._alive.discard(child)

    def end_all(self) -> None:
        """End every child, at the same time, and let no new one start."""
        with self._lock:
            self._ending = True
            alive = list(self._alive)
        for child in alive:
            child.ask_to_end()
        for child in alive:
            child.wait()

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_all()


def reproduce_stage(
    children: Children,
    stage: str,
    *,
    log: Callable[[str], None],
    root: Path = Path("."),
    environment: Mapping[str, str] | None = None,
) -> Ending:
    """``dvc repro`` of one stage, alone. Says whether it ran, came from DVC's run cache, or had not changed at all.

    A dvc that was killed a moment ago can leave its files marked as busy for one call more: that is retried once.
    Raises ``StageFailed``.
    """
    # The flag comes before `repro`; never -q: a faulty dvc.yaml would then print nothing.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", stage]
    for attempt in (1, 2):
        last: deque[str] = deque(maxlen=12)
        ending: Ending = "unchanged"

        def note(line: str, last: deque[str] = last) -> None:
            nonlocal ending
            if line.startswith(HINTS):
                return
            last.append(line)
            if line.startswith("Running stage "):
                ending = "ran"
            elif line.startswith("Stage ") and "is cached - skipping run" in line:
                ending = "restored"
            log(line)

        code = children.run(command, log=note, root=root, environment=environment)
        if code == 0:
            return ending
        if attempt == 1 and any(sign in line for line in last for sign in BUSY):
            log(f"{stage}: another dvc holds its files; trying once more in {BUSY_WAIT_SECONDS:.0f} s")
            time.sleep(BUSY_WAIT_SECONDS)
            continue
        break
    raise StageFailed(stage, code, list(last))
