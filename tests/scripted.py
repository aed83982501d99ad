"""A model that says what a test has written down: one entry a turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from candle_vllm.generation import Event, Finished, Reasoning, Started, Text, ToolArguments, ToolCallStarted
from candle_vllm.models import LoadedModel
from candle_vllm.openai import ApiError
from candle_vllm.params import GenerationParams
from candle_vllm.records import GenerationStats
from fake_engine import FakeEngine

Said = str | Exception | Sequence[tuple[str, Any]]
"""A text, an error to raise, or calls as (name, arguments); arguments that are a text are sent as they are."""


class Scripted:
    """Answers turn n by entry n of the script, or by the entry that a function makes of the request.

    A token is a word; the context has room for `context` of them.
    """

    def __init__(self, *script: Said | Callable[[Mapping[str, Any]], Said], context: int = 100_000) -> None:
        self.script = script
        self.requests: list[Mapping[str, Any]] = []
        self.refused = 0
        self.context = context
        self.pause = 0.0

    async def answer(self, request: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        words = len(json.dumps(request["messages"]).split())
        if words >= self.context:
            self.refused += 1
            raise ApiError("too long", param="messages", code="context_length_exceeded")
        info = SimpleNamespace(max_sequence_length=self.context)
        model = cast(LoadedModel, SimpleNamespace(engine=SimpleNamespace(model_info=info)))
        yield Started(model, "scripted", [[0] * words], 1)
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        entry = self.script[min(turn, len(self.script) - 1)]
        said = entry(request) if callable(entry) else entry
        self.requests.append(request)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, str):
            for piece in said.split("|"):
                await asyncio.sleep(self.pause)
                yield Reasoning(0, piece[1:]) if piece.startswith("?") else Text(0, piece)
        else:
            for at, (name, arguments) in enumerate(said):
                text = arguments if isinstance(arguments, str) else json.dumps(arguments)
                yield ToolCallStarted(0, at, f"call_{turn}_{at}", name)
                for cut in (text[: len(text) // 2], text[len(text) // 2 :]):
                    yield ToolArguments(0, at, cut)
        stats = GenerationStats(
            prompt_tokens=words,
            cached_tokens=words // 2,
            generated_tokens=10,
            queue_time=0.0,
            prefill_time=0.0,
            total_time=0.0,
        )
        yield Finished(0, "stop" if isinstance(said, str) else "tool_calls", None, stats)


def result_of(request: Mapping[str, Any], back: int = 1) -> str:
    """The content of the last tool message but `back - 1`, as the model is shown it."""
    text: str = [message for message in request["messages"] if message["role"] == "tool"][-back]["content"]
    return text


class ScriptedEngine(FakeEngine):
    """The same as an engine, for tests of the whole road: entry n answers a prompt that holds n earlier answers.

    A function makes the entry of the prompt's text. Calls are written in the notation of the generic format.
    """

    def __init__(self, *entries: Said | Callable[[str], Said], **settings: Any) -> None:
        super().__init__(context=20_000)
        self.entries = entries
        self.prompts: list[str] = []
        for name, value in settings.items():
            setattr(self, name, value)

    def _said(self, prompt: list[int], params: GenerationParams) -> str:
        text = self.detokenize(prompt)
        self.prompts.append(text)
        turn = text.count("\nassistant\n") - 1
        entry = self.entries[min(turn, len(self.entries) - 1)]
        said = entry(text) if callable(entry) else entry
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, str) else written(said)


def written(calls: Sequence[tuple[str, Any]]) -> str:
    """Calls as a model writes them."""
    return "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>" for name, arguments in calls
    )


def told(prompt: str, back: int = 1) -> str:
    """The last result but `back - 1` that a prompt of `ScriptedEngine` holds."""
    return prompt.split("<tool_response>\n")[-back].partition("\n</tool_response>")[0]
