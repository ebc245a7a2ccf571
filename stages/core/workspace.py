"""One run, or ``stages.commands.data put``, at a time: the lock of a workspace. The operating system frees it however
its holder ends.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = Path(".items/run.lock")


class AnotherRun(RuntimeError):
    """Another run of this workspace is at work; the message says which."""


@contextlib.contextmanager
def only_run(root: Path = Path(".")) -> Iterator[None]:
    """Hold the workspace at ``root``. Raises ``AnotherRun`` at once if somebody else does."""
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AnotherRun(f"another run is at work in this workspace ({_holder(file.read())})") from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        file.flush()
        yield


def _holder(content: str) -> str:
    try:
        holder = json.loads(content)
    except json.JSONDecodeError:  # it holds the lock and has not written yet
        return "just started"
    return f"process {holder['pid']}, since {holder['since']}"
