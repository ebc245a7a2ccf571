"""MLflow's pages, for who has the workspace's token; `mlflow server` finds them by an entry point (pyproject.toml).

MLflow's own login is a database of users and rights, and needs further packages. Here is one user.
"""

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from flows import server

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]

NAME = "actor-action"
"""Of the entry point."""


class Door:
    """An ASGI app in front of another: 401 without the token as password, 403 for pages that others serve."""

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] == "http" and (status := self._refusal(scope)):
            headers = [(b"www-authenticate", b'Basic realm="this workspace", charset="UTF-8"')] * (status == 401)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        elif scope["type"] == "websocket":  # MLflow's pages use none
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> int | None:
        headers = dict(scope["headers"])
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        # A browser that is logged in here sends the password with the requests of other pages, too.
        if origin is not None and origin != b"http://" + host:
            return 403
        if scope["path"] == "/health" and scope["method"] == "GET":
            return None
        return None if hmac.compare_digest(_password(headers.get(b"authorization", b"")), self._token) else 401


def _password(authorization: bytes) -> bytes:
    """The password of HTTP basic authentication, whatever the user's name; empty if there is none."""
    scheme, _, encoded = authorization.partition(b" ")
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2] if scheme.lower() == b"basic" else b""
    except binascii.Error:
        return b""


def app() -> App:
    """What `mlflow server --app-name` starts; ``ACTOR_ACTION_ROOT`` is the workspace."""
    from mlflow.server.fastapi_app import app as pages

    return Door(pages, server.token(Path(os.environ["ACTOR_ACTION_ROOT"])))
