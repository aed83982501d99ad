"""A running stream of chunks as JSON text, whose work can be taken back at any moment.

Must not know of the forms of requests and replies, nor of HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from candle_vllm.openai.jobs import Job, amerged, cancel
from candle_vllm.openai.sampling import Submission
from candle_vllm.records import GenerationChunk

if TYPE_CHECKING:
    from candle_vllm.engine import RequestHandle


class Run(Protocol):
    """What a stream needs of a request, whichever endpoint it came to; each method gives chunks as JSON text."""

    jobs: list[Job]
    submission: Submission

    def opening(self) -> Iterator[str]:
        """Before anything was generated."""
        ...

    def pieces(self, index: int, chunk: GenerationChunk) -> Iterator[str]:
        """For what one step added to one answer."""
        ...

    def closing(self) -> Iterator[str]:
        """After the last answer ended."""
        ...


class JsonChunks:
    """An asynchronous iterator over chunks; also a context that closes it.

    Unlike a plain generator, closing it takes the work back even when nothing was read yet.
    """

    def __init__(self, run: Run, handles: Sequence[RequestHandle]) -> None:
        self._handles = handles
        self._texts = _texts(run, handles)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[str]:
        return self._texts.__anext__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Take back the work that still runs or waits."""
        cancel(self._handles)
        await self._texts.aclose()


async def _texts(run: Run, handles: Sequence[RequestHandle]) -> AsyncGenerator[str, None]:
    for text in run.opening():
        yield text
    async for index, chunk in amerged(handles):
        for text in run.pieces(index, chunk):
            yield text
    for text in run.closing():
        yield text
