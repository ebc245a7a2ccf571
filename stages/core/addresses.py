"""Addresses of servers: how they may be shown (a login in them is the user's secret), and who answers there."""

import http.client
import json
import re
import socket
import urllib.request
from urllib.parse import urlsplit


def hidden(text: str) -> str:
    """``text`` with `***` for logins, queries and fragments of the addresses in it; rather too much than too little."""
    return re.sub(r"(//[^\s?#'\"]*[?#])[^\s'\"]+", r"\1***", re.sub(r"(?<=//).*@|^[^\s/]+@", "***@", text))


def fault(address: str) -> str | None:
    """Why nobody answers at ``address`` (host:port, or with a scheme); None if somebody does."""
    where = urlsplit(address if "//" in address else f"//{address}")
    try:
        port = where.port or {"http": 80, "https": 443, "ray": 10001}.get(where.scheme, 6379)
        socket.create_connection((where.hostname or "", port), timeout=5).close()
    except OSError as error:
        return str(error)
    except ValueError:  # its words quote a part of the address, which may be one of a password
        return "not an address"
    return None


def takes_anybody(url: str) -> bool:
    """Whether the Prefect API at ``url`` answers to requests without a login."""
    where = urlsplit(url)
    if not where.scheme.startswith("http"):
        return False
    bare = where._replace(netloc=where.netloc.rpartition("@")[2]).geturl()
    try:
        with urllib.request.urlopen(f"{bare.rstrip('/')}/admin/version", timeout=2) as reply:
            return isinstance(json.load(reply), str)  # else a page with a form to log in
    except (OSError, ValueError, http.client.HTTPException):
        return False
