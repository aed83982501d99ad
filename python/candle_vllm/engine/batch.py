"""Many prompts in one call: which parameters go with which, all submitted, all answers in order.

When the waiting queue is full, further prompts wait here for earlier ones of the same call. Knows nothing of
how a request is submitted or read.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from candle_vllm import checks
from candle_vllm.engine.handle import RequestHandle
from candle_vllm.errors import CandleVllmError, ConfigError, QueueFullError
from candle_vllm.params import GenerationParams
from candle_vllm.records import GenerationOutput

__all__ = ["Job", "Prompt", "is_prompt", "jobs", "run", "run_async"]

Prompt = str | Sequence[int]
"""Text, or token ids."""
_NO_LISTS = (bytes, bytearray, memoryview, Mapping)
"""What has ints in it and is no list of token ids."""

Submit = Callable[["Job"], RequestHandle]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt with its parameters."""

    prompt: Prompt
    params: GenerationParams


def is_prompt(value: object) -> TypeGuard[Prompt]:
    """Whether this is one prompt rather than a list of prompts. An empty list is a list of no prompts."""
    if isinstance(value, str):
        return True
    if isinstance(value, _NO_LISTS):
        return False
    try:
        return hasattr(value[0], "__index__")  # type: ignore[index]
    except (TypeError, IndexError, KeyError):
        return False


def token_ids(field: str, tokens: Sequence[int]) -> list[int]:
    """Plain ints of token ids; raises ConfigError for anything else, bytes and mappings included."""
    expected = "a text or a list of token ids" if field == "prompt" else "a list of token ids"
    if isinstance(tokens, _NO_LISTS):
        checks.refuse(field, tokens, expected)
    try:
        return [operator.index(token) for token in tokens]
    except TypeError:
        checks.refuse(field, tokens, expected)


def plain(prompt: Prompt) -> Prompt:
    """The prompt as a text or a list of plain ints; raises ConfigError for anything else."""
    if not isinstance(prompt, str):
        return token_ids("prompt", prompt)
    if not checks.encodable(prompt):
        checks.refuse("prompt", prompt, "a text without halves of surrogate pairs")
    return prompt


def parameters(params: object) -> GenerationParams:
    """The parameters; raises ConfigError for anything else."""
    if not isinstance(params, GenerationParams):
        checks.refuse("params", params, "GenerationParams")
    return params


def jobs(prompts: Any, params: object) -> list[Job]:
    """A job a prompt: one set of parameters serves all, or a list has one each."""
    if isinstance(prompts, _NO_LISTS) or not isinstance(prompts, Iterable):
        checks.refuse("prompt", prompts, "a text, a list of token ids, or a list of these")
    listed = [plain(prompt) for prompt in prompts]
    if not isinstance(params, Sequence):
        shared = parameters(params)
        return [Job(prompt, shared) for prompt in listed]
    if len(params) != len(listed):
        raise ConfigError(
            f"params must be one set of parameters or a list as long as the prompts; "
            f"got {len(params)} for {len(listed)} prompts",
            field="params",
            value=params,
            expected="one set of parameters or a list as long as the prompts",
        )
    return [Job(prompt, parameters(own)) for prompt, own in zip(listed, params, strict=True)]


def run(work: Sequence[Job], submit: Submit, advance: Callable[[], None] | None) -> list[GenerationOutput]:
    """Answers in the order of the jobs. When one job is refused, none goes on, and the refusal is raised."""
    handles: list[RequestHandle] = []
    try:
        for place, job in enumerate(work):
            while (handle := _submitted(place, job, submit, handles, advance)) is None:
                _oldest(handles).result()
            handles.append(handle)
        return [handle.result() for handle in handles]
    finally:
        for handle in handles:
            handle.close()


async def run_async(work: Sequence[Job], submit: Submit, advance: Callable[[], None] | None) -> list[GenerationOutput]:
    """As `run`, in a task; cancelling the task cancels every request of the call."""
    handles: list[RequestHandle] = []
    try:
        for place, job in enumerate(work):
            while (handle := _submitted(place, job, submit, handles, advance)) is None:
                await _oldest(handles).result_async()
            handles.append(handle)
        return [await handle.result_async() for handle in handles]
    finally:
        for handle in handles:
            handle.close()


def _submitted(
    place: int, job: Job, submit: Submit, earlier: Sequence[RequestHandle], advance: Callable[[], None] | None
) -> RequestHandle | None:
    """The job under way, or None when the queue is full and an earlier one must end first."""
    try:
        handle = submit(job)
    except QueueFullError:
        if all(handle.done for handle in earlier):
            raise
        return None
    except CandleVllmError as error:
        error.add_note(f"while submitting prompt {place} of the list")
        raise
    if advance is not None:
        handle.on_end(advance)
    return handle


def _oldest(handles: Sequence[RequestHandle]) -> RequestHandle:
    return next((handle for handle in handles if not handle.done), handles[-1])
