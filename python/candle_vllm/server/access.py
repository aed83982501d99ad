"""Access: one HTTP request from its arrival to the end of its reply, and the line that the log keeps of each request.

The line tells tokens, times and why answers ended, never what was asked or answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextvars import ContextVar

from starlette.types import Message, Scope, Send

from candle_vllm.generation import Account
from candle_vllm.server import request_id

__all__ = ["Exchange", "current", "write"]

logger = logging.getLogger("candle_vllm.access")


class Exchange:
    """One request and its reply. What it sends bears the request's id, and no body where the method is HEAD."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == request_id.HEADER), None)
        self.id = request_id.request_id(given)
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.route = ""
        """The path below wherever the application is mounted, without a slash at its end."""
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.status: int | None = None
        """Of the reply, once it has begun."""
        self.account = Account(request_id=self.id)
        """What is generated for it, and the name of its API key."""
        self.started = time.monotonic()
        self.client: str = (scope.get("client") or ("",))[0]
        self._headless = self.method == "HEAD"
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass a message of the reply on to the server."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (request_id.HEADER, self.id.encode("ascii"))]
            message = {**message, "headers": headers}
        elif self._headless:
            message = {**message, "body": b""}
        await self._send(message)

    def log(self) -> None:
        """Write the line."""
        asked = {"method": self.method, "path": self.path[:256], "status": self.status}
        write(self.account, self.client, self.started, asked)


def write(account: Account, client: str, started: float, asked: Mapping[str, object]) -> None:
    """Write the line of a request that came at `started` (`time.monotonic`); `asked` is what its door knows of it."""
    if not logger.isEnabledFor(logging.INFO):
        return
    seconds = round(time.monotonic() - started, 4)
    facts: dict[str, object] = {"client": client, **asked, "key": account.key, "seconds": seconds}
    if account.endpoint:
        facts.update(_facts(account))
    shown = " ".join(f"{name}={_shown(value)}" for name, value in facts.items() if value not in ("", None))
    logger.info("%s", shown, extra={"facts": facts})


def _facts(account: Account) -> dict[str, object]:
    first = account.first_token_at
    return {
        "endpoint": account.endpoint,
        "model": account.model[:256],
        "stream": account.stream,
        "n": account.n,
        "prompt_tokens": account.prompt_tokens,
        "cached_tokens": account.cached_tokens,
        "generated_tokens": account.generated_tokens,
        "queue_seconds": round(account.queue_time, 4),
        "prefill_seconds": round(account.prefill_time, 4),
        "first_token_seconds": None if first is None else round(first - account.started, 4),
        "finish": ",".join(sorted(set(account.finish_reasons))) or None,
        "error": _error(account.error),
    }


def _error(error: BaseException | None) -> str | None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "client_left"
    return None if error is None else type(error).__name__


def _shown(value: object) -> str:
    """A value that cannot be taken for two, nor break the line."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and " " not in text else ascii(text).replace(" ", "\\x20")


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
"""The exchange that this task works for."""
