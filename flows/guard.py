"""A guard around one command, so that nothing outlives the process that started it.

A script of its own: ``python -I -S guard.py GRACE COMMAND...``. The guard leads a session of its own; its standard
input is a pipe whose other end its owner holds. On TERM, INT or HUP, or at the end of that pipe (its owner closed it or
died in any way, SIGKILL included), it ends the command and all that the command started: TERM first, KILL after GRACE
seconds. When the command ends by itself, what it left behind is ended, too, and the guard exits as the command did.

Standard library only: it starts in some 20 ms.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main(command: list[str], *, grace: float) -> int:
    """Run ``command`` until it ends or has to; returns its exit code, or 128 + the signal that ended it."""
    wake, notify = os.pipe()
    os.set_blocking(notify, False)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    for number in (*ENDING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # a handler, or nothing would be written to the pipe
    adopt_orphans()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"can't start {command[0]}: {error}", file=sys.stderr)
        return 127

    owner = sys.stdin.fileno()
    while child.poll() is None:
        ready, _, _ = select.select([wake, owner], [], [])
        if owner in ready and not os.read(owner, 4096):
            break
        if wake in ready and ENDING & set(os.read(wake, 4096)):
            break
        living_descendants(child.pid)  # reaps adopted orphans
    end_all(child, grace=grace)
    return 128 - child.returncode if child.returncode < 0 else child.returncode


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants (Linux), so that those in sessions of their own are found as well."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all(child: "subprocess.Popen[bytes]", *, grace: float) -> None:
    """End the command's group and its other descendants; returns when none is left."""
    deadline = time.monotonic() + grace
    number = signal.SIGTERM
    asked: set[int] = set()
    while True:
        child.poll()
        alive = living_descendants(child.pid)
        if not alive and child.returncode is not None and not send(os.killpg, child.pid, 0):
            return
        if number == signal.SIGTERM and time.monotonic() > deadline:
            number, asked = signal.SIGKILL, set()
        if child.pid not in asked:
            # The group in one call: a shell must not start its next command between the ends of two members.
            send(os.killpg, child.pid, number)
            asked |= {child.pid} | {pid for pid, group in alive.items() if group == child.pid}
        for pid in alive.keys() - asked:
            send(os.kill, pid, number)
            asked.add(pid)
        time.sleep(0.02)


def living_descendants(child: int) -> dict[int, int]:
    """Process id -> group of all that descend from this process (Linux; empty elsewhere); reaps the dead among them."""
    parents: dict[int, int] = {}
    groups: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent group ..."; the name may hold spaces and brackets
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # ended while we looked
        pid = int(stat.parent.name)
        if state != "Z":
            parents[pid], groups[pid] = int(parent), int(group)
        elif int(parent) == os.getpid() and pid != child:
            os.waitpid(pid, os.WNOHANG)
    found: set[int] = set()
    grown = {os.getpid()}
    while grown:
        grown = {pid for pid, parent in parents.items() if parent in grown and pid not in found}
        found |= grown
    return {pid: groups[pid] for pid in found}


def send(how: Callable[[int, int], None], pid: int, number: int) -> bool:
    """Send a signal; False when there is nobody to receive it."""
    try:
        how(pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], grace=float(sys.argv[1])))
