"""Anthropic's Messages and count_tokens: rows of the tables, on the one road."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from candle_vllm.anthropic.types import (
    Block,
    ContentBlock,
    CountReply,
    CountRequest,
    InputJsonDelta,
    Message,
    MessageDelta,
    MessagesRequest,
    StopReason,
    StreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    Usage,
)
from candle_vllm.generation import (
    Account,
    Answer,
    Conversation,
    Event,
    Finished,
    GenerationRequest,
    Reasoning,
    Reply,
    Road,
    Started,
    Status,
    Text,
    ToolArguments,
    ToolCallStarted,
    ToolUse,
)
from candle_vllm.generation.prepare import render
from candle_vllm.openai.endpoint import Endpoint, Query, fresh_id
from candle_vllm.openai.errors import ApiError, invalid, unsupported

__all__ = ["ENDPOINTS", "QUERIES"]

RequestT = TypeVar("RequestT", bound=CountRequest)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def envelope(error: ApiError) -> dict[str, Any]:
    """The form of Anthropic's errors."""
    message = f"{error.param}: {error.message}" if error.param else error.message
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    return {"type": "error", "error": {"type": _TYPES.get(error.status, usual), "message": message}}


def parse(request: MessagesRequest) -> GenerationRequest:
    """What the request asks of the road. Raises a 400 for each field that cannot be honoured."""
    sampling: dict[str, Any] = {}
    if request.temperature is not None:
        sampling["temperature"] = request.temperature
    if request.top_p is not None:
        sampling["top_p"] = max(request.top_p, 1e-6)
    if request.top_k is not None:
        sampling["top_k"] = request.top_k if request.top_k > 0 else None
    if request.stop_sequences:
        sampling["stop_sequences"] = tuple(request.stop_sequences)
    return _generation(request, sampling=sampling, max_tokens=request.max_tokens, stream=bool(request.stream))


def _generation(request: CountRequest, **fields: Any) -> GenerationRequest:
    if request.output_config:
        raise unsupported("output_config", "'output_config' is not supported.")
    thinking = request.thinking
    effort = None if thinking is None or thinking.type == "adaptive" else "medium"
    if thinking is not None and thinking.type == "disabled":
        effort = "none"
    return GenerationRequest(
        input=Conversation(messages=_messages(request), reasoning_effort=effort),
        model=request.model,
        tool_use=_tool_use(request),
        fields={"reasoning_effort": "thinking", "grammar": "tool_choice"},
        **fields,
    )


def _messages(request: CountRequest) -> list[dict[str, Any]]:
    """In OpenAI's form: results of tools become messages of their own, before what else their message says."""
    shown: list[dict[str, Any]] = []
    if request.system:
        shown.append({"role": "system", "content": _text(request.system, "system")})
    open_calls: set[str] = set()
    for at, message in enumerate(request.messages):
        if isinstance(message.content, str):
            shown.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            shown.append(_said(message.content, at))
            open_calls |= {call["id"] for call in shown[-1].get("tool_calls", ())}
        else:
            shown += _results(message.content, at, open_calls)
            rest = [block for block in message.content if block.type != "tool_result"]
            if rest:
                shown.append({"role": "user", "content": _text(rest, f"messages[{at}].content")})
    return shown


def _said(blocks: Sequence[ContentBlock], at: int) -> dict[str, Any]:
    """A message of the assistant."""
    place = f"messages[{at}].content"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _text([block for block in blocks if block.type not in ("tool_use", "thinking")], place),
    }
    if thoughts := [block.thinking or "" for block in blocks if block.type == "thinking"]:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls := [block for block in blocks if block.type == "tool_use"]:
        if any(call.id is None or call.name is None for call in calls):
            raise invalid(place, "a 'tool_use' block needs 'id' and 'name'.")
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.input or {}, ensure_ascii=False)},
            }
            for call in calls
        ]
    return message


def _results(blocks: Sequence[ContentBlock], at: int, open_calls: set[str]) -> list[dict[str, Any]]:
    """The results of tools in a user's message."""
    results = []
    for number, block in enumerate(blocks):
        if block.type != "tool_result":
            continue
        place = f"messages[{at}].content[{number}]"
        if block.tool_use_id not in open_calls:
            raise invalid(f"{place}.tool_use_id", "it answers no 'tool_use' of a message before it.")
        content = block.content or ""
        if not isinstance(content, str):
            content = _text([ContentBlock.model_validate(part) for part in content], f"{place}.content")
        text = f"Error: {content}" if block.is_error else content
        results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
    return results


def _text(content: str | Sequence[ContentBlock], place: str) -> str:
    if isinstance(content, str):
        return content
    for number, block in enumerate(content):
        if block.type != "text":
            raise unsupported(f"{place}[{number}].type", f"content of type '{block.type}' is not supported; send text.")
    return "\n".join(block.text or "" for block in content)


def _tool_use(request: CountRequest) -> ToolUse | None:
    choice = request.tool_choice
    if choice is not None and choice.type in ("any", "tool") and not request.tools:
        raise invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are specified.")
    if not request.tools or (choice is not None and choice.type == "none"):
        return None
    tools = []
    for number, tool in enumerate(request.tools):
        if tool.type not in (None, "custom"):
            raise unsupported(f"tools[{number}].type", f"tools of type '{tool.type}' are not supported.")
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema or {"type": "object"}}
        if tool.description is not None:
            function["description"] = tool.description
        tools.append({"type": "function", "function": function})
    if choice is None:
        return ToolUse(tools=tools)
    wanted = {"auto": "auto", "any": "required", "tool": choice.name or ""}[choice.type]
    if choice.type == "tool" and wanted not in {tool.name for tool in request.tools}:
        raise invalid("tool_choice.name", f"'{wanted}' is none of the tools given.")
    return ToolUse(tools=tools, choice=wanted, parallel=not choice.disable_parallel_tool_use)


class MessageWriter:
    """Writes one message's events or the whole of it. Blocks follow one another: one ends where another begins."""

    def __init__(self, request: MessagesRequest, account: Account) -> None:
        self._account = account
        self._id = fresh_id("msg", account)
        self._model = request.model
        self._index = -1
        self._open = ""

    def chunks(self, event: Event) -> Sequence[StreamEvent]:
        """The events that this event makes due."""
        match event:
            case Text(text=text):
                begun = self._begin("text", TextBlock(type="text", text=""))
                return [*begun, self._delta(TextDelta(type="text_delta", text=text))]
            case Reasoning(text=text):
                begun = self._begin("thinking", ThinkingBlock(type="thinking", thinking="", signature=""))
                return [*begun, self._delta(ThinkingDelta(type="thinking_delta", thinking=text))]
            case ToolCallStarted(call=call, id=id_, name=name):
                return self._begin(f"call {call}", ToolUseBlock(type="tool_use", id=id_, name=name, input={}))
            case ToolArguments(text=text):
                return [self._delta(InputJsonDelta(type="input_json_delta", partial_json=text))]
            case Started():
                self._model = event.name
                return [StreamEvent(type="message_start", message=self._message([], None, None))]
            case Finished():
                reason, stop = _reason(event)
                delta = MessageDelta(stop_reason=reason, stop_sequence=stop)
                end = StreamEvent(type="message_delta", delta=delta, usage=self._usage())
                return [*self._end(), end, StreamEvent(type="message_stop")]
            case Status():
                return [StreamEvent(type="ping")]
            case _:
                return []

    def closing(self) -> Sequence[StreamEvent]:
        """Nothing more."""
        return []

    def reply(self, reply: Reply) -> Message:
        """The whole reply."""
        self._model = reply.started.name
        answer = reply.answers[0]
        if answer.finished is None:
            raise RuntimeError("an answer has no end")
        return self._message(_blocks(answer), *_reason(answer.finished))

    def _message(self, content: list[Block], reason: StopReason | None, stop: str | None) -> Message:
        return Message(
            id=self._id,
            type="message",
            role="assistant",
            model=self._model,
            content=content,
            stop_reason=reason,
            stop_sequence=stop,
            usage=self._usage(),
        )

    def _usage(self) -> Usage:
        account = self._account
        return Usage(
            input_tokens=account.prompt_tokens - account.cached_tokens,
            cache_creation_input_tokens=0,
            cache_read_input_tokens=account.cached_tokens,
            output_tokens=account.generated_tokens,
        )

    def _begin(self, kind: str, block: Block) -> list[StreamEvent]:
        """What is due where a block of this kind goes on or begins."""
        if self._open == kind:
            return []
        ended = self._end()
        self._open = kind
        self._index += 1
        return [*ended, StreamEvent(type="content_block_start", index=self._index, content_block=block)]

    def _end(self) -> list[StreamEvent]:
        if not self._open:
            return []
        self._open = ""
        return [StreamEvent(type="content_block_stop", index=self._index)]

    def _delta(self, delta: TextDelta | ThinkingDelta | InputJsonDelta) -> StreamEvent:
        return StreamEvent(type="content_block_delta", index=self._index, delta=delta)


def _blocks(answer: Answer) -> list[Block]:
    blocks: list[Block] = []
    if answer.reasoning:
        blocks.append(ThinkingBlock(type="thinking", thinking=answer.reasoning, signature=""))
    if answer.text:
        blocks.append(TextBlock(type="text", text=answer.text))
    for call in answer.calls:
        blocks.append(ToolUseBlock(type="tool_use", id=call.id, name=call.name, input=_input(call.arguments)))
    return blocks


def _input(text: str) -> dict[str, Any]:
    """Arguments as an object; those of a call that was cut off have none."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(finished: Finished) -> tuple[StopReason, str | None]:
    if finished.reason == "length":
        return "max_tokens", None
    if finished.reason == "tool_calls":
        return "tool_use", None
    if isinstance(finished.stop_reason, str):
        return "stop_sequence", finished.stop_reason
    return "end_turn", None


async def _count(request: CountRequest, road: Road) -> CountReply:
    async with road.models.lease(request.model or None) as model:
        rendered = await render(_generation(request), model)
        return CountReply(input_tokens=len(rendered.ids))


ENDPOINTS = (
    Endpoint(
        name="message",
        path="/v1/messages",
        request=MessagesRequest,
        reply=Message,
        chunk=StreamEvent,
        parse=parse,
        writer=MessageWriter,
        framing="events",
        envelope=envelope,
    ),
)
QUERIES = (
    Query(
        name="count_tokens",
        path="/v1/messages/count_tokens",
        request=CountRequest,
        reply=CountReply,
        answer=_count,
        envelope=envelope,
    ),
)
