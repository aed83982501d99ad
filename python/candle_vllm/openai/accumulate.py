"""accumulate: the chunks of one stream put together to the reply that would have come whole.

Must not know how chunks are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from candle_vllm.openai.chat_types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionMessageToolCall,
    Choice,
    ChoiceDelta,
    ChoiceDeltaToolCallFunction,
    ChunkChoice,
    FunctionCall,
)
from candle_vllm.openai.completion_types import Completion, CompletionChoice
from candle_vllm.openai.mcp_types import McpCall

__all__ = ["accumulate"]

PartT = TypeVar("PartT", bound=BaseModel)


@overload
def accumulate(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletion: ...


@overload
def accumulate(chunks: Iterable[Completion]) -> Completion: ...


def accumulate(chunks: Iterable[ChatCompletionChunk] | Iterable[Completion]) -> ChatCompletion | Completion:
    """All chunks of one stream as its whole reply, word for word what a request that does not stream gets.

    Chunks of a chat give a ChatCompletion, those of a completion a Completion. `usage` is None where the stream told
    none (`stream_options={"include_usage": True}` asks for it). Raises ValueError where there are no chunks, where they
    are of several streams, and where an answer has no end because the stream was cut off.

        accumulate(adapter.chat_completion_stream(request))
        accumulate([chunk async for chunk in adapter.achat_completion_stream(request)])
    """
    whole = _Whole()
    for chunk in chunks:
        whole.add(chunk)
    return whole.reply()


class _Whole:
    """What has been read of a stream."""

    def __init__(self) -> None:
        self._last: ChatCompletionChunk | Completion | None = None
        self._head: dict[str, Any] = {}
        self._chats: dict[int, _ChatAnswer] = {}
        self._texts: dict[int, _TextAnswer] = {}

    def add(self, chunk: ChatCompletionChunk | Completion) -> None:
        """One more chunk."""
        if self._last is not None and (chunk.id, type(chunk)) != (self._last.id, type(self._last)):
            raise ValueError(f"the chunks are of several streams: {self._last.id} and {chunk.id}")
        self._last = chunk
        # What is told once stands; what comes later, as the model's name does, replaces what came before.
        told = {name: value for name, value in _set(chunk).items() if value is not None}
        self._head |= {name: value for name, value in told.items() if name not in ("choices", "object")}
        if chunk.candle_metadata is not None:
            return
        if isinstance(chunk, Completion):
            for text in chunk.choices:
                self._texts.setdefault(text.index, _TextAnswer(text.index)).add(text)
        else:
            for choice in chunk.choices:
                self._chats.setdefault(choice.index, _ChatAnswer(choice.index)).add(choice)

    def reply(self) -> ChatCompletion | Completion:
        """The reply."""
        if self._last is None:
            raise ValueError("there are no chunks")
        self._head.pop("candle_metadata", None)
        if isinstance(self._last, Completion):
            texts = [self._texts[index].choice() for index in sorted(self._texts)]
            return Completion(**self._head, object="text_completion", choices=texts)
        choices = [self._chats[index].choice() for index in sorted(self._chats)]
        return ChatCompletion(**self._head, object="chat.completion", choices=choices)


class _ChatAnswer:
    """One answer of a chat."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._content = ""
        self._reasoning = ""
        self._calls: dict[int, dict[str, str]] = {}
        self._made: dict[int, dict[str, Any]] = {}
        self._legacy = False
        self._rest: dict[str, Any] = {"logprobs": None}

    def add(self, choice: ChunkChoice) -> None:
        """What a chunk adds."""
        delta = choice.delta
        self._content += delta.content or ""
        self._reasoning += delta.reasoning_content or ""
        self._add_calls(delta)
        if choice.logprobs is not None:
            self._rest["logprobs"] = _more(self._rest["logprobs"], choice.logprobs)
        if choice.token_ids is not None:
            self._rest["token_ids"] = [*self._rest.get("token_ids", ()), *choice.token_ids]
        for name in ("finish_reason", "stop_reason"):
            if (value := getattr(choice, name)) is not None:
                self._rest[name] = value

    def _add_calls(self, delta: ChoiceDelta) -> None:
        for made in delta.mcp_calls or ():
            known = self._made.setdefault(made.index, {"arguments": "", "output": "", "error": "not_run"})
            arguments = known["arguments"] + (made.arguments or "")
            if made.output is not None:
                known["error"] = None
            known |= {name: value for name, value in _set(made).items() if name != "index"} | {"arguments": arguments}
        for part in delta.tool_calls or ():
            call = self._calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += part.id or ""
            _add_function(call, part.function)
        if delta.function_call is not None:
            self._legacy = True
            _add_function(self._calls.setdefault(0, {"name": "", "arguments": ""}), delta.function_call)

    def choice(self) -> Choice:
        """The answer."""
        if "finish_reason" not in self._rest:
            raise ValueError(f"answer {self._index} has no end: the stream was cut off")
        fields: dict[str, Any] = {"role": "assistant", "content": self._content, "refusal": None}
        if self._reasoning:
            fields["reasoning"] = fields["reasoning_content"] = self._reasoning
        if self._made:
            fields["mcp_calls"] = [McpCall(**self._made[at]) for at in sorted(self._made)]
        calls = [self._calls[at] for at in sorted(self._calls)]
        functions = [FunctionCall(name=call["name"], arguments=call["arguments"]) for call in calls]
        if calls:
            fields["content"] = self._content or None
        if self._legacy:
            fields["function_call"] = functions[0]
        elif calls:
            fields["tool_calls"] = [
                ChatCompletionMessageToolCall(id=call["id"], type="function", function=function)
                for call, function in zip(calls, functions, strict=True)
            ]
        return Choice(index=self._index, message=ChatCompletionMessage(**fields), **self._rest)


class _TextAnswer:
    """One answer of a completion."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._text = ""
        self._rest: dict[str, Any] = {"logprobs": None}

    def add(self, choice: CompletionChoice) -> None:
        """What a chunk adds."""
        self._text += choice.text
        if choice.logprobs is not None:
            self._rest["logprobs"] = _more(self._rest["logprobs"], choice.logprobs)
        if choice.token_ids is not None:
            self._rest["token_ids"] = [*self._rest.get("token_ids", ()), *choice.token_ids]
        for name in ("finish_reason", "prompt_logprobs"):
            if (value := getattr(choice, name)) is not None:
                self._rest[name] = value

    def choice(self) -> CompletionChoice:
        """The answer."""
        if "finish_reason" not in self._rest:
            raise ValueError(f"answer {self._index} has no end: the stream was cut off")
        return CompletionChoice(index=self._index, text=self._text, **self._rest)


def _add_function(call: dict[str, str], part: ChoiceDeltaToolCallFunction | None) -> None:
    if part is not None:
        call["name"] += part.name or ""
        call["arguments"] += part.arguments or ""


def _more(known: PartT | None, part: PartT) -> PartT:
    """Log-probabilities, behind those that are known: every list of theirs goes on."""
    if known is None:
        return part
    lists = {name: [*(getattr(known, name) or ()), *value] for name, value in _set(part).items() if value is not None}
    return known.model_copy(update=lists)


def _set(model: BaseModel) -> dict[str, Any]:
    """The members that were set, as they are."""
    return {name: getattr(model, name) for name in model.model_fields_set}
