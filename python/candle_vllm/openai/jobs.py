"""One request's work for the engine: a job an answer, all submitted at once, their pieces merged as they come.

Must not know of the forms of requests and replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from candle_vllm.errors import CandleVllmError, GenerationError, RequestCancelledError
from candle_vllm.openai.errors import ApiError, invalid
from candle_vllm.openai.sampling import FinishText, Submission, seed_of_choice
from candle_vllm.params import GenerationParams
from candle_vllm.records import FinishReason, GenerationChunk

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine, RequestHandle


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to generate; its place in the list of jobs is its index in the reply."""

    prompt: list[int]
    params: GenerationParams


MOST_ANSWERS = 2048
"""Of one request, over all its prompts."""


def jobs_of(prompts: Sequence[tuple[list[int], GenerationParams]], answers: int) -> list[Job]:
    """``answers`` jobs for each prompt, in the order of OpenAI's indices; seeds differ between answers.

    Raises a 400 for more than :data:`MOST_ANSWERS`.
    """
    if len(prompts) * answers > MOST_ANSWERS:
        raise invalid(
            "prompt", f"{len(prompts)} prompts with {answers} answers each are above {MOST_ANSWERS} answers a request."
        )
    return [
        Job(prompt, params if params.seed is None else replace(params, seed=seed_of_choice(params.seed, choice)))
        for prompt, params in prompts
        for choice in range(answers)
    ]


def room_for(prompt: list[int], context: int, wanted: int | None, what: str) -> int:
    """Tokens that an answer may have: ``wanted``, or what the context leaves where that is less or none is given.

    Raises a 400 when the prompt leaves room for none. ``what`` names the prompt's field.
    """
    room = context - len(prompt)
    if room < 1:
        raise ApiError(
            f"This model's maximum context length is {context} tokens. However, your {what} resulted in "
            f"{len(prompt)} tokens. Please reduce the length of the {what}.",
            param=what,
            code="context_length_exceeded",
        )
    return room if wanted is None else min(wanted, room)


def finish_text(reason: FinishReason, stop_reason: str | int | None) -> FinishText:
    """OpenAI's word for why an answer ended; raises when it did not end well."""
    if reason is FinishReason.LENGTH:
        return "length"
    if reason in (FinishReason.STOP, FinishReason.STOP_SEQUENCE):
        return "stop"
    if reason is FinishReason.CANCELLED:
        raise RequestCancelledError("The request was cancelled before its answer was complete.")
    raise GenerationError(str(stop_reason) if stop_reason else "The answer could not be completed.")


def submit(engine: InferenceEngine, jobs: Sequence[Job], how: Submission) -> list[RequestHandle]:
    """Submit every job, or none: when one is refused the others are taken back and the refusal is raised."""
    handles: list[RequestHandle] = []
    try:
        for job in jobs:
            handles.append(engine.add_request(job.prompt, job.params, **how))
    except CandleVllmError:
        cancel(handles)
        raise
    return handles


def cancel(handles: Sequence[RequestHandle]) -> None:
    """Take every job back that still runs or waits; those that ended are left alone."""
    for handle in handles:
        handle.cancel()


def merged(handles: Sequence[RequestHandle]) -> Iterator[tuple[int, GenerationChunk]]:
    """The pieces of all answers with their indices, taken in turn. All run in step, so no one waits long."""
    streams = {index: iter(handle) for index, handle in enumerate(handles)}
    while streams:
        for index, stream in list(streams.items()):
            chunk = next(stream, None)
            if chunk is None:
                del streams[index]
            else:
                yield index, chunk


async def amerged(handles: Sequence[RequestHandle]) -> AsyncIterator[tuple[int, GenerationChunk]]:
    """The pieces of all answers with their indices, in the order in which they come."""
    if len(handles) == 1:
        async for chunk in handles[0]:
            yield 0, chunk
        return
    arrived: asyncio.Queue[tuple[int, GenerationChunk | BaseException | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_forward(index, handle, arrived)) for index, handle in enumerate(handles)]
    running = len(tasks)
    try:
        while running:
            index, item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    index: int, handle: RequestHandle, arrived: asyncio.Queue[tuple[int, GenerationChunk | BaseException | None]]
) -> None:
    try:
        async for chunk in handle:
            arrived.put_nowait((index, chunk))
        arrived.put_nowait((index, None))
    except Exception as error:
        arrived.put_nowait((index, error))
