"""Whose program listens on a port of the loopback interface: any account may take a free one, and be sent our token."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import psutil

HOST = "127.0.0.1"
TABLE = Path("/proc/net/tcp")
ADDRESS, STATE, ACCOUNT = 1, 3, 7
"""Columns of its rows."""
LISTEN = "0A"  # linux/tcp_states.h


def require_own(url: str) -> None:
    """Return if this user's programs, and no others, listen at ``url``; call it before anything is sent a token.

    Raises ``RuntimeError``.
    """
    where = urlsplit(url)
    if where.hostname != HOST or where.port is None:
        raise RuntimeError(f"{url} is no server of this workspace: remove the file that says so, and start again")
    if accounts(where.port) != {os.getuid()}:
        raise RuntimeError(
            f"another account's program listens on port {where.port}; nothing was sent to it: start again, for another"
            " port, or have that program ended"
        )


def accounts(port: int) -> set[int]:
    """User ids of those who listen on ``port`` of 127.0.0.1 itself, which comes before who listens on all addresses.

    Linux tells of every account; elsewhere only processes of our own can be asked, so others are just not found.
    """
    if not TABLE.exists():
        return {os.getuid()} if _one_of_ours_listens(port) else set()
    local = f"0100007F:{port:04X}"
    rows = [line.split() for line in TABLE.read_text().splitlines()[1:]]
    return {int(row[ACCOUNT]) for row in rows if row[ADDRESS] == local and row[STATE] == LISTEN}


def _one_of_ours_listens(port: int) -> bool:
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid():
                continue
            connections = process.net_connections("tcp4")
        except psutil.Error:  # it ended meanwhile
            continue
        if any(c.status == psutil.CONN_LISTEN and tuple(c.laddr) == (HOST, port) for c in connections):
            return True
    return False
