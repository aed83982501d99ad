"""Owner: the one task that opens, holds and closes a server's session, with a queue of those who want it before it.

The protocol's library ties what it opens to the task that opened it, so nobody else does. A session is opened when
somebody wants it, closed when nobody has for a while, and opened anew after it ended. Must not know of tools.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from candle_vllm.errors import McpConnectionError
from candle_vllm.mcp.config import McpServer

if TYPE_CHECKING:
    import httpx2
    from mcp.client.session import ElicitationFnT, IncomingMessage

    from candle_vllm.mcp.transports import Ending, Way
    from mcp import Client

__all__ = ["Held", "Hooks", "Owner", "State", "cause_of"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
_LONGEST_WAIT = 2.0
"""Seconds that a caller is made to wait for a server that fails again and again; above that it hears so at once."""

State = Literal["idle", "connecting", "ready", "failed", "closed"]


class Held:
    """An open session, and who uses it."""

    def __init__(self, client: Client, ending: Ending) -> None:
        self.client = client
        self.ending = ending
        self.users = 0
        self.succeeded = False
        """Whether it has done anything; one that has not counts as a failure when it ends."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a session needs of whoever uses it."""

    changed: Callable[[Any], Coroutine[Any, Any, None]]
    """Hears the server's notifications."""
    opened: Callable[[Held], Coroutine[Any, Any, None]]
    """Runs beside each session while it is open."""
    elicit: ElicitationFnT | None = None
    """Answers the server's questions; None = there are no answers, of which the server is told."""
    http_auth: httpx2.Auth | None = None
    """Authorizes each HTTP request, as OAuth does."""


class Owner:
    """Holds one server's session on the event loop where it is used."""

    def __init__(self, server: McpServer, hooks: Hooks) -> None:
        self._server = server
        self._hooks = hooks
        self._wanted: deque[asyncio.Future[Held]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._way: Way | None = None
        self.state: State = "idle"
        self.problem: str | None = None
        """Why the last session could not be opened, or ended."""

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Held, None]:
        """The open session. Raises McpConnectionError where it cannot be had."""
        held = await self._want()
        if held.ending.over:
            # It ended between being handed over and being used; nothing was sent on it.
            held = await self._want()
        held.users += 1
        try:
            yield held
        finally:
            held.users -= 1
            self._wake.set()

    async def close(self) -> None:
        """Close the session and end the task; whoever waits is refused."""
        self._closing = True
        self._wake.set()
        task = self._task
        if task is not None:
            if self.state == "connecting":
                # A server that does not answer keeps nobody from closing.
                task.cancel()
            await asyncio.wait({task})
        self.state = "closed"

    async def _want(self) -> Held:
        if self._closing:
            raise McpConnectionError(f"MCP server {self._server.name!r}: the client is closed")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._own(), name=f"mcp-{self._server.name}")
        wanted: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._wanted.append(wanted)
        self._wake.set()
        limit = self._server.timeouts.connect
        try:
            async with asyncio.timeout(limit):
                return await wanted
        except TimeoutError:
            raise McpConnectionError(f"MCP server {self._server.name!r}: no answer within {limit:g} s") from None

    async def _own(self) -> None:
        try:
            while not self._closing:
                if self._wanted:
                    await self._hold()
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._refuse("the client is closed")

    async def _hold(self) -> None:
        """Open a session and hold it until it ends, or nobody uses it, or the owner is closed."""
        if not await self._rested():
            return
        held: Held | None = None
        self.state = "connecting"
        try:
            async with AsyncExitStack() as stack:
                held = await self._open(stack)
                self.state, self.problem = "ready", None
                watching = asyncio.create_task(self._hooks.opened(held))
                try:
                    await self._serve(held)
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
        except (Exception, BaseExceptionGroup) as error:
            if held is not None:
                held.ending.end(cause_of(error))
            else:
                self._failed(cause_of(error))
                self._refuse(cause_of(error))
        finally:
            if held is not None:
                self._over(held)

    async def _serve(self, held: Held) -> None:
        idle = self._server.timeouts.idle
        while not held.ending.over and not self._closing:
            while self._wanted:
                wanted = self._wanted.popleft()
                if not wanted.done():
                    wanted.set_result(held)
            self._wake.clear()
            try:
                async with asyncio.timeout(idle):
                    await self._wake.wait()
            except TimeoutError:
                if not held.users and not self._wanted:
                    return

    def _over(self, held: Held) -> None:
        if held.succeeded:
            self._failures = 0
        if held.ending.over:
            self._failed(held.ending.reason or "the connection ended")
        held.ending.end()
        self.state = "idle"

    def _failed(self, problem: str) -> None:
        self.state, self.problem = "failed", problem
        self._failures += 1
        self._failed_at = time.monotonic()
        _log.info("MCP server %r: %s", self._server.name, problem)

    async def _rested(self) -> bool:
        """Let a server that failed rest, longer each time; False where that takes long, of which callers hear."""
        if not self._failures:
            return True
        rest = min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 16), _LONGEST_PAUSE)
        left = self._failed_at + rest - time.monotonic()
        if left > _LONGEST_WAIT:
            self._refuse(f"{self.problem}; it failed {self._failures} times and is tried again in {left:.0f} s")
            return False
        await asyncio.sleep(max(0.0, left))
        return True

    def _refuse(self, problem: str) -> None:
        while self._wanted:
            wanted = self._wanted.popleft()
            if not wanted.done():
                wanted.set_exception(McpConnectionError(f"MCP server {self._server.name!r}: {problem}"))

    async def _open(self, stack: AsyncExitStack) -> Held:
        """Try the ways to the server, all within its time; the one that worked is the first the next time."""
        transports = await asyncio.to_thread(_transports)
        known = transports.ways(self._server)
        order = (self._way,) if self._way in known else known
        deadline = time.monotonic() + self._server.timeouts.connect
        problem = ""
        for at, way in enumerate(order):
            budget = (deadline - time.monotonic()) / (len(order) - at)
            try:
                async with asyncio.timeout(budget) as limit:
                    held = await self._enter(stack, way)
            except (Exception, BaseExceptionGroup) as error:
                told = f"no answer within {budget:.3g} s" if limit.expired() else cause_of(error)
                # What the first way met is what concerns its user, unless only a later one met anything.
                problem = problem or told
                _log.debug("MCP server %r by %s: %s", self._server.name, way, told)
            else:
                self._way = way
                return held
        self._way = None
        raise McpConnectionError(problem)

    async def _enter(self, stack: AsyncExitStack, way: Way) -> Held:
        from mcp import Client

        transports = _transports()
        ending = transports.Ending(self._wake.set)

        async def heard(message: IncomingMessage) -> None:
            await self._hooks.changed(message)

        client = Client(
            transports.open_transport(self._server, way, ending, self._hooks.http_auth),
            mode=way[1],
            cache=None,
            read_timeout_seconds=self._server.timeouts.call,
            message_handler=heard,
            elicitation_callback=self._hooks.elicit,
        )
        try:
            await client.__aenter__()
        except (Exception, BaseExceptionGroup) as error:
            if ending.reason is not None:
                raise McpConnectionError(ending.reason) from error
            raise
        # The client checks results itself: the library's way runs a server's regular expressions, which may never end.
        client.session.validate_tool_result = _unchecked  # type: ignore[method-assign,assignment]
        stack.push_async_exit(client)
        return Held(client, ending)


async def _unchecked(_name: str, _result: Any) -> None:
    """Stands in for the library's check of results."""


def _transports() -> Any:
    try:
        return import_module("candle_vllm.mcp.transports")
    except ImportError as error:
        raise McpConnectionError(
            f"the MCP library is missing ({error}); install it with: pip install 'candle-vllm[mcp]'"
        ) from error


def cause_of(error: BaseException) -> str:
    """What went wrong, in one line: of a group, its first leaf."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error).strip().partition("\n")[0]
    return text[:500] if text else type(error).__name__
