"""Where Prefect's API is: a server that is set, the one of `make ui`, or a short-lived one of this flow's own.

Prefect would start a short-lived one itself. Ours costs 3 to 4 s less (Prefect first imports its whole server into the
flow, then starts it; here the flow imports only the client, meanwhile), and it is under a guard: Prefect's own survives
when the flow is killed.
"""

import os
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from flows.child import Child

HOST = "127.0.0.1"
START_SECONDS = 180.0
"""A first start makes the database: some 20 s on two cores, more on a busy machine."""

IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP")
"""Services for schedules and workers: the business of the server of `make ui`, not of one that lives for one flow."""


def home(root: Path) -> Path:
    """Prefect's folder: its database and profile belong to the project, not to the user's account."""
    return Path(os.environ.get("PREFECT_HOME") or root.resolve() / ".prefect")


def settings(root: Path) -> dict[str, str]:
    """Prefect's settings in this project, as environment variables; to be set before prefect is imported."""
    return {
        "PREFECT_HOME": str(home(root)),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
    }


def address(port: int) -> dict[str, str]:
    """The settings that have to agree on where the server is, or its pages would call another one."""
    url = f"http://{HOST}:{port}/api"
    return {
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": url,
        "PREFECT_UI_API_URL": url,
    }


def command() -> list[str]:
    """How a server is started, as Prefect documents it."""
    return [sys.executable, "-m", "prefect", "server", "start"]


def running(root: Path) -> str | None:
    """The API of a server that is set or stands: PREFECT_API_URL, else the one that `make ui` started."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    note = home(root) / "ui.url"
    if note.exists():
        url = note.read_text().strip()
        if answers(f"{url}/health"):
            return url
    return None


def start(root: Path) -> tuple[Child, str]:
    """Start a short-lived server of our own and return at once with its API's address; then ``wait_for`` it.

    It ends when this process does, by its guard, and not before: Prefect sends its last events and logs at exit.
    """
    where = address(free_port())
    idle = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES}
    home(root).mkdir(parents=True, exist_ok=True)
    child = Child(
        [*command(), "--no-ui"],
        root=root,
        environment={**settings(root), **where, **idle},
        output=home(root) / "server.log",
    )
    return child, where["PREFECT_API_URL"]


def wait_for(url: str, child: Child, *, seconds: float = START_SECONDS) -> None:
    """Return once ``url`` answers. Raises ``RuntimeError`` if the process that should answer ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not answers(url):
        if not child.is_alive:
            raise RuntimeError(f"the process that should answer at {url} ended with exit code {child.wait()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing answers at {url} after {seconds:.0f} s")
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port(preferred: int = 0) -> int:
    """``preferred`` if nobody listens there, else any free port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, preferred))
        except OSError:
            return free_port()
        return int(probe.getsockname()[1])
