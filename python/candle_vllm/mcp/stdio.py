"""The stdio transport: a server as a child process, one JSON message a line.

Stricter than the protocol library's own: lines are bounded, what is no message (a banner) is skipped, the end of the
process is seen even while a grandchild holds its pipes, and whatever the process has left in its group is ended with
it. Must not know of sessions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.client.stdio import StdioServerParameters, get_default_environment, stdio_client
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from candle_vllm.mcp.config import McpServer

__all__ = ["stdio_transport"]

_log = logging.getLogger(__name__)

_GRACE = 1.5
"""Seconds that a server has to go after its input closed."""
_MERCY = 1.0
"""Seconds between asking its group to end and ending it."""
_LAST = 0.25
"""Seconds to see the killed go; those whom nobody reaps never seem to."""
_POLL = 0.01
_STDERR_KEPT = 2000

Incoming = SessionMessage | Exception


@asynccontextmanager
async def stdio_transport(server: McpServer, ended: Callable[[str], None]) -> AsyncGenerator[TransportStreams, None]:
    """The streams of a server's process; `ended` hears why they ended where they did by themselves.

    Raises OSError where the program cannot be started.
    """
    assert server.command is not None
    if sys.platform == "win32":
        given = StdioServerParameters(
            command=server.command, args=list(server.args), env=dict(server.env), cwd=server.cwd
        )
        async with stdio_client(given) as streams:
            yield streams
        return
    child = await _Child.start(server, ended)
    incoming, read = anyio.create_memory_object_stream[Incoming](0)
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(child.read(incoming)),
        asyncio.create_task(child.write(outgoing)),
        asyncio.create_task(child.listen()),
    ]
    try:
        yield read, write
    finally:
        child.closing = True
        await _seen_through(_close(child, tasks))
        for stream in (incoming, read, write, outgoing):
            stream.close()


async def _close(child: _Child, tasks: list[asyncio.Task[None]]) -> None:
    await child.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    child.release()


async def _seen_through(work: object) -> None:
    """Await `work` to its end, whatever cancels the caller meanwhile; its waits are all bounded."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class _Watched(SubprocessStreamProtocol):
    """Tells the end of the process at once; asyncio's own `wait` also waits for pipes that a grandchild may hold."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=limit, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        self.exited.set()
        super().process_exited()


class _Child:
    """A server's process and what it says."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, watched: _Watched, server: McpServer, ended: Callable[[str], None]
    ) -> None:
        self.process = Process(transport, watched, asyncio.get_running_loop())
        self.closing = False
        self._transport = transport
        self._watched = watched
        self._server = server
        self._ended = ended
        self._stderr = b""

    @classmethod
    async def start(cls, server: McpServer, ended: Callable[[str], None]) -> _Child:
        """Start the program as the leader of a group of its own."""
        loop = asyncio.get_running_loop()
        limit = server.limits.message_bytes
        assert server.command is not None
        transport, watched = await loop.subprocess_exec(
            lambda: _Watched(limit, loop),
            server.command,
            *server.args,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=get_default_environment() | dict(server.env),
            cwd=server.cwd,
            start_new_session=True,
        )
        return cls(transport, watched, server, ended)

    async def read(self, incoming: MemoryObjectSendStream[Incoming]) -> None:
        """Pass on messages until the process ends or sends a line that is too long."""
        lines = asyncio.create_task(self._lines(incoming))
        gone = asyncio.create_task(self._watched.exited.wait())
        try:
            await asyncio.wait({lines, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not lines.done():
                # What it wrote before its end is in the pipe already.
                await asyncio.wait({lines}, timeout=0.2)
            problem = lines.result() if lines.done() else None
            if not self.closing:
                if problem is None:
                    await asyncio.wait({gone}, timeout=0.2)
                self._ended(problem or self._obituary())
        finally:
            for task in (lines, gone):
                task.cancel()
            await asyncio.gather(lines, gone, return_exceptions=True)
            incoming.close()

    async def _lines(self, incoming: MemoryObjectSendStream[Incoming]) -> str | None:
        """Messages until the output ends; what was wrong where something was."""
        stdout = self.process.stdout
        assert stdout is not None
        while True:
            try:
                line = await stdout.readline()
            except ValueError:
                return f"it sent a line above {self._server.limits.message_bytes} bytes"
            except OSError:
                return None
            if not line:
                return None
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                if line.strip():
                    _log.debug("MCP server %r wrote what is no message: %.200r", self._server.name, line)
                continue
            try:
                await incoming.send(SessionMessage(message))
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return None

    async def write(self, outgoing: MemoryObjectReceiveStream[SessionMessage]) -> None:
        """Send what the session writes; a pipe that broke shows where the output ends."""
        stdin = self.process.stdin
        assert stdin is not None
        with suppress(ConnectionError, OSError):
            async with outgoing:
                async for each in outgoing:
                    stdin.write(each.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                    await stdin.drain()

    async def listen(self) -> None:
        """Keep the end of what it says on its error output, for messages about it."""
        stderr = self.process.stderr
        assert stderr is not None
        while piece := await stderr.read(65_536):
            self._stderr = (self._stderr + piece)[-_STDERR_KEPT:]
            _log.debug("MCP server %r: %s", self._server.name, piece.decode(errors="replace").rstrip())

    def _obituary(self) -> str:
        code = self.process.returncode
        how = "it closed its output" if code is None else f"it ended with exit status {code}"
        said = self._stderr.decode(errors="replace").strip().splitlines()
        return f"{how}; its last words: {said[-1][:300]}" if said else how

    async def stop(self) -> None:
        """Close its input, wait for it to go, then end it and whatever is left of its group."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._watched.exited.wait(), _GRACE)
        # The group's number is the leader's own, and no other group's while any member lives.
        group = self.process.pid
        if _signalled(group, signal.SIGTERM) and not await _gone(group, _MERCY):
            _signalled(group, signal.SIGKILL)
            await _gone(group, _LAST)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._watched.exited.wait(), _MERCY)

    def release(self) -> None:
        """Close its pipes, which a process that left the group may hold at the other end."""
        with suppress(PermissionError, ProcessLookupError):
            self._transport.close()


async def _gone(group: int, seconds: float) -> bool:
    """Whether no member of the group is left within a time."""
    for _ in range(int(seconds / _POLL)):
        await asyncio.sleep(_POLL)
        if not _signalled(group, 0):
            return True
    return False


def _signalled(group: int, number: int) -> bool:
    """Whether a signal reached a member of the group; 0 only asks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
