"""The model as an MCP server: the tools `generate` and `chat` for other agents, by the protocol's library.

Needs the extra `mcp`. Must not know of HTTP or command lines.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, TypeVar, cast

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from candle_vllm.openai import ApiError, ChatCompletionChunk, Completion, OpenAIAdapter, accumulate

__all__ = ["Answer", "Message", "model_server", "serve_stdio"]

_TELL = 0.2
"""Seconds between tellings of progress: each is a message of its own."""
_LONGEST_LINE = 64 << 20
_INSTRUCTIONS = "A language model: `chat` answers messages, `generate` continues a text."

ChunkT = TypeVar("ChunkT", ChatCompletionChunk, Completion)
ResultT = TypeVar("ResultT")

MaxTokens = Annotated[int, Field(ge=1, le=1_000_000, description="Tokens of the answer at most.")]
Temperature = Annotated[
    float | None, Field(ge=0, le=2, description="0 is the likeliest text; absent means as the model recommends.")
]
TopP = Annotated[float | None, Field(ge=0, le=1, description="Share of the likeliest tokens to draw from.")]
Seed = Annotated[int | None, Field(ge=0, lt=2**63, description="The same seed gives the same text.")]
Stop = Annotated[list[str] | None, Field(max_length=16, description="Texts that end the answer.")]
Model = Annotated[str, Field(max_length=256, description="Name of the model; absent means the one that is served.")]


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Answer(BaseModel):
    """What came of it, beside the text that is the result's content."""

    text: str
    reasoning: str | None = None
    """What the model thought before it answered."""
    finish_reason: str
    """`stop`, or `length` where the answer was cut off."""
    prompt_tokens: int
    generated_tokens: int


def model_server(adapter: OpenAIAdapter, *, version: str = "") -> MCPServer[Any]:
    """A server over the adapter's models; `serve_stdio` serves it, or an HTTP server its `streamable_http_app`.

    Progress tells tokens and, as its message, the text since it was last told. A call that is cancelled frees the
    engine's work.
    """
    server: MCPServer[Any] = MCPServer("candle-vllm", instructions=_INSTRUCTIONS, version=version)
    hints = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    async def generate(
        context: Context[Any, Any],
        prompt: Annotated[str, Field(min_length=1, description="The text to go on from, as it is.")],
        max_tokens: MaxTokens = 256,
        temperature: Temperature = None,
        top_p: TopP = None,
        seed: Seed = None,
        stop: Stop = None,
        model: Model = "",
    ) -> Annotated[CallToolResult, Answer]:
        """Continues a text."""
        given = {"prompt": prompt} | _shared(
            max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop, model=model
        )
        whole = accumulate(await _seen_through(_read(context, adapter.acompletion_stream(given), max_tokens)))
        return _result(whole.choices[0].text, None, str(whole.choices[0].finish_reason), whole.usage)

    async def chat(
        context: Context[Any, Any],
        messages: Annotated[list[Message], Field(min_length=1, max_length=1000, description="The conversation.")],
        max_tokens: MaxTokens = 1024,
        temperature: Temperature = None,
        top_p: TopP = None,
        seed: Seed = None,
        stop: Stop = None,
        model: Model = "",
    ) -> Annotated[CallToolResult, Answer]:
        """Answers the last message of a conversation."""
        given: dict[str, Any] = {"messages": [message.model_dump() for message in messages]}
        given |= _shared(max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop, model=model)
        whole = accumulate(await _seen_through(_read(context, adapter.achat_completion_stream(given), max_tokens)))
        message = whole.choices[0].message
        return _result(message.content or "", message.reasoning, str(whole.choices[0].finish_reason), whole.usage)

    for tool in (generate, chat):
        server.add_tool(tool, annotations=hints)
    return server


async def serve_stdio(server: MCPServer[Any]) -> None:
    """Serve until standard input ends.

    Nothing but the protocol gets to standard output meanwhile: what this process prints goes to standard error.
    """
    lines = await _lines_of_stdin()
    inner = server._lowlevel_server
    async with stdio_server(stdin=cast(Any, lines)) as (read, write):
        await inner.run(read, write, inner.create_initialization_options())


async def _lines_of_stdin() -> AsyncIterator[str] | None:
    """Standard input without a thread, which nothing could end; None where it is a file or the system has no pipes."""
    if sys.platform == "win32":
        return None
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    except (ValueError, OSError):
        return None

    async def lines() -> AsyncIterator[str]:
        while line := await reader.readline():
            yield line.decode(errors="replace")

    return lines()


def _shared(max_tokens: int, **given: Any) -> dict[str, Any]:
    """The fields of a request that both tools have; those that are None are left out."""
    usage = {"stream_options": {"include_usage": True}}
    return {name: value for name, value in given.items() if value is not None} | {"max_tokens": max_tokens} | usage


async def _read(context: Context[Any, Any], chunks: AsyncGenerator[ChunkT, None], most: int) -> Sequence[ChunkT]:
    """All chunks, with their progress told; each that holds text counts as a token."""
    read: list[ChunkT] = []
    tokens, unseen, told = 0, "", time.monotonic()
    try:
        async with aclosing(chunks) as stream:
            async for chunk in stream:
                read.append(chunk)
                piece = _text_of(chunk)
                tokens += bool(piece)
                unseen += piece
                if unseen and time.monotonic() - told >= _TELL:
                    told = time.monotonic()
                    await context.report_progress(tokens, most, unseen)
                    unseen = ""
    except ApiError as error:
        raise ToolError(str(error)) from error
    if unseen:
        await context.report_progress(tokens, most, unseen)
    return read


def _text_of(chunk: ChatCompletionChunk | Completion) -> str:
    if not chunk.choices:
        return ""
    if isinstance(chunk, Completion):
        return chunk.choices[0].text
    delta = chunk.choices[0].delta
    return delta.content or delta.reasoning_content or ""


async def _seen_through(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of work in a task of its own.

    The library cancels a call again and again until it has left; that would also cancel what the work does to end well.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
        raise


def _result(text: str, reasoning: str | None, finish_reason: str, usage: Any) -> CallToolResult:
    counts: Mapping[str, int] = {
        "prompt_tokens": 0 if usage is None else usage.prompt_tokens,
        "generated_tokens": 0 if usage is None else usage.completion_tokens,
    }
    answer = Answer(text=text, reasoning=reasoning, finish_reason=finish_reason, **counts)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer.model_dump())
