"""Who has no token, as this account and, where the tests run as root, as another one."""

import contextlib
import fcntl
import json
import os
import pwd
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from flows import server
from tests.help import toy

NO_DEPLOYMENT = "00000000-0000-0000-0000-000000000000"


def answers(api: str, *, deployment: str = NO_DEPLOYMENT, marker: Path = Path("x")) -> dict[str, int]:
    """What a Prefect server answers to the request that once ran any command as its user: status by who asks.

    With a foreign Origin and Host; the command would make ``marker``.
    """
    body = {"state": {"type": "SCHEDULED"}, "job_variables": {"command": f'bash -c "touch {marker}"'}}

    def attack() -> str:
        return str(status(f"{api}/deployments/{deployment}/create_flow_run", body=json.dumps(body).encode()))

    found = {"ourselves": int(attack())}
    if os.getuid() == 0:
        found["another account"] = int(as_nobody(attack))
    return found


def status(url: str, *, body: bytes | None = None, method: str | None = None, **headers: str) -> int:
    """The status that ``url`` answers to a page of another origin."""
    sent = {"Content-Type": "application/json", "Origin": "http://evil.example", "Host": "evil.example", **headers}
    request = urllib.request.Request(url, data=body, method=method, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def as_nobody(look: Callable[[], str]) -> str:
    """What ``look`` returns, or the name of what it raises, in a process of the account `nobody`."""
    return begin_as_nobody(look)()


def begin_as_nobody(look: Callable[[], str]) -> Callable[[], str]:
    """Begin what ``as_nobody`` does; the function that comes back waits for its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            account = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            said = look()
        except BaseException as error:
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)

    def finish() -> str:
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        return said

    return finish


@contextlib.contextmanager
def listening(port: int, *, locked: Path | None = None) -> Iterator[list[str]]:
    """While `nobody` answers 200 to everything on ``port``, and holds a lock on ``locked``.

    After the block the list holds one text: the Authorization headers that it was sent, or the name of its error.
    """

    def serve() -> str:
        heard: list[str] = []
        paths: list[str] = []

        class Anything(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(self.headers.get("Authorization", ""))
                paths.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with contextlib.ExitStack() as stack:
            if locked is not None:
                fcntl.flock(stack.enter_context(locked.open()), fcntl.LOCK_EX)
            http = stack.enter_context(HTTPServer(("127.0.0.1", port), Anything))
            while "/end" not in paths:
                http.handle_request()
        return "".join(heard)

    said: list[str] = []
    socket.getfqdn("127.0.0.1")  # loads what the server will need: `nobody` may not read it
    finish = begin_as_nobody(serve)
    toy.wait_until(lambda: server.answers(f"http://127.0.0.1:{port}/"), seconds=60, what="nobody answers on the port")
    try:
        yield said
    finally:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/end", timeout=60).close()
        said.append(finish())
