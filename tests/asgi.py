"""A request as a server would hand it to an ASGI application, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Headers = list[tuple[bytes, bytes]]


def scope(path: str = "/", method: str = "GET", headers: Headers | None = None, **more: Any) -> dict[str, Any]:
    """An HTTP/1.1 scope; a Host header is added unless one is there."""
    given = headers or []
    if not any(name == b"host" for name, _ in given):
        given = [(b"host", b"localhost:2000"), *given]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "headers": given,
        "client": ("10.0.0.1", 1234),
        **more,
    }


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The envelope's code."""
        code: str = self.json()["error"]["code"]
        return code


def source(parts: Sequence[bytes | float]) -> Any:
    """A `receive` that gives these pieces of a body, then the client leaves; a float is a pause in seconds."""
    rest = list(parts)

    async def receive() -> dict[str, Any]:
        if rest and isinstance(rest[0], float):
            await asyncio.sleep(float(rest.pop(0)))
        if not rest:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

    return receive


async def call(app: Any, request: dict[str, Any], parts: Sequence[bytes | float] = (b"",)) -> Reply:
    """What the application answers; `parts` are the pieces of the body, see `source`."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(request, source(parts), send)
    if not sent:
        return Reply(0, {}, b"")
    assert [message["type"] for message in sent] == ["http.response.start"] + ["http.response.body"] * (len(sent) - 1)
    headers = {name.decode(): value.decode() for name, value in sent[0].get("headers", ())}
    return Reply(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))
