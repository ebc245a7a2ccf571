"""Who has no token, as this account and, where the tests run as root, as another one."""

import json
import os
import pwd
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

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
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
