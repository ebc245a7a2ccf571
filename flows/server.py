"""Where Prefect's API is: a server that is set, the one of `make ui`, or a short-lived one of this flow's own.

Prefect would start a short-lived one itself. Ours costs 3 to 4 s less (Prefect first imports its whole server into the
flow, then starts it; here the flow imports only the client, meanwhile), and it is under a guard: Prefect's own survives
when the flow is killed. Every server of ours asks for the workspace's token (docs/security.md): who may start runs of a
deployment runs commands.
"""

import contextlib
import fcntl
import os
import secrets
import socket
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote, urlsplit

from flows.child import Child
from flows.listener import HOST, require_own
from stages.core.addresses import hidden

START_SECONDS = 180.0
"""A first start makes the database: some 20 s on two cores, more on a busy machine."""

SHORTEST_TOKEN = 32
"""Characters; ours have 43."""

NOTE = "ui.url"
"""In Prefect's folder: where the server of `make ui` is."""

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


def closed_home(root: Path) -> Path:
    """Prefect's folder, made if it isn't there, for this user alone; one that earlier versions left open is closed.

    Raises ``ValueError`` where it belongs to another account.
    """
    folder = home(root)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another account: remove it, or set PREFECT_HOME to a folder of yours")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
        note = folder / NOTE
        if note.exists() and note.stat().st_mode & 0o077:
            note.unlink()  # another account may have it open, and a lock on it
    return folder


def token(root: Path) -> str:
    """The password of this workspace's servers, random; made at first use, and again when its file was removed.

    Raises ``ValueError`` where others than this user can read or write the file, and where it holds no whole token.
    """
    path = closed_home(root) / "token"
    if not path.exists():
        draft = path.with_name(f".token.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())  # else a crash of the machine may leave an empty one
        with contextlib.suppress(FileExistsError):  # of two processes the first makes it, never half
            os.link(draft, path)
        draft.unlink()
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(f"{path} is not this user's alone, so its token may be known: rm {path}, and start again")
    known = path.read_text().strip()
    if len(known) < SHORTEST_TOKEN:  # with an empty one the servers let everybody in
        raise ValueError(f"{path} holds no whole token: rm {path}, and start again")
    return known


def login(root: Path) -> dict[str, str]:
    """The settings by which a server of ours asks for the token, and by which its clients have it."""
    known = token(root)
    return {"PREFECT_SERVER_API_AUTH_STRING": known, "PREFECT_API_AUTH_STRING": known}


def address(port: int) -> dict[str, str]:
    """The settings that have to agree on where the server is, or its pages would call another one."""
    url = f"http://{HOST}:{port}/api"
    return {
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": url,
        "PREFECT_UI_API_URL": url,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",  # else pages of all servers
    }


def command() -> list[str]:
    """How a server is started, as Prefect documents it."""
    return [sys.executable, "-m", "prefect", "server", "start"]


def configured() -> dict[str, str]:
    """The settings for a server of the user's own, PREFECT_API_URL; empty where there is none.

    A login in that address goes where Prefect looks for one: its messages and logs show addresses whole. Raises
    ``ValueError`` for an address that may hold a secret elsewhere.
    """
    url = os.environ.get("PREFECT_API_URL", "")
    try:
        where = urlsplit(url)
    except ValueError:  # its words quote the address
        raise ValueError(f"PREFECT_API_URL ({hidden(url)}) is not an address") from None
    if "@" in where.path + where.query + where.fragment:
        mend = "percent-encode the login (/ is %2F, ? is %3F, # is %23, @ is %40)"
        raise ValueError(f"PREFECT_API_URL ({hidden(url)}) has an @ behind the host: {mend}")
    if where.query or where.fragment:
        raise ValueError(f"PREFECT_API_URL ({hidden(url)}) has a query or fragment, which no API takes: remove it")
    user, at, _ = where.netloc.rpartition("@")
    if not at:
        return {"PREFECT_API_URL": url} if url else {}
    return {"PREFECT_API_URL": url.replace(f"{user}@", "", 1), "PREFECT_API_AUTH_STRING": unquote(user)}


@contextlib.contextmanager
def note(root: Path) -> Iterator[TextIO]:
    """The file in which `make ui` says where its server is; locked for as long as that command lives.

    Raises ``RuntimeError`` where another one holds it.
    """
    private = os.open(closed_home(root) / NOTE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(private, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("another `make ui` is at work in this workspace") from None
        file.truncate(0)
        try:
            yield file
        finally:
            file.truncate(0)


def of_ui(root: Path) -> str | None:
    """The API of the server that `make ui` runs, if it does.

    The note of one that was killed counts for nothing: who listens there now must not be sent the token. Raises
    ``RuntimeError`` where that is another account.
    """
    path = closed_home(root) / NOTE
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            url = file.read().strip()
            if not url or not answers(f"{url}/health"):
                return None
            require_own(url)
            return url
    return None


def start(root: Path) -> tuple[Child, str]:
    """Start a short-lived server of our own and return at once with its API's address; then ``wait_for`` it.

    It ends when this process does, by its guard, and not before: Prefect sends its last events and logs at exit.
    """
    where = address(free_port())
    idle = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES}
    child = Child(
        [*command(), "--no-ui"],
        root=root,
        environment={**settings(root), **where, **idle, **login(root)},
        output=closed_home(root) / "server.log",
    )
    return child, where["PREFECT_API_URL"]


def wait_for(url: str, child: Child, *, seconds: float = START_SECONDS) -> None:
    """Return once ``url`` answers, and only if it is this user's server: the next request may carry the token.

    Raises ``RuntimeError`` if another account answers, or the process that should ends or takes too long.
    """
    deadline = time.monotonic() + seconds
    while not answers(url):
        if not child.is_alive:
            raise RuntimeError(f"the process that should answer at {url} ended with exit code {child.wait()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing answers at {url} after {seconds:.0f} s")
        time.sleep(0.05)
    require_own(url)


def answers(url: str) -> bool:
    """Whether a request without the token gets 200 from ``url``."""
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
