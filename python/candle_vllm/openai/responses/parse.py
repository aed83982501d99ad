"""From a request of the Responses API to what is asked of the road. Must not know where responses are stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from candle_vllm.generation import Constraint, Conversation, GenerationRequest
from candle_vllm.openai.errors import invalid, unsupported
from candle_vllm.openai.request import SamplingRequest, sampling_fields
from candle_vllm.openai.responses.items import Content, InputItem
from candle_vllm.openai.responses.tools import server_tools, tool_use
from candle_vllm.openai.responses.types import PromptRequest, ResponsesRequest

__all__ = ["conversation", "parse", "wants_logprobs"]

_FIELDS = {
    "max_tokens": "max_output_tokens",
    "prompt": "input",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "thinking_budget": "thinking_token_budget",
    "variables": "chat_template_kwargs",
    "grammar": "tools",
    "server_tools": "tools",
    "server_tools.servers": "tools",
    "server_tools.max_calls": "max_tool_calls",
}


def parse(request: ResponsesRequest) -> GenerationRequest:
    """What the request asks of the road. Raises a 400 for each field that cannot be honoured."""
    _refuse_unsupported(request)
    sampled = SamplingRequest.model_construct(**{name: getattr(request, name) for name in _SAMPLED})
    return conversation(
        request,
        variables=request.chat_template_kwargs or {},
        sampling=sampling_fields(sampled),
        max_tokens=request.max_output_tokens,
        thinking_budget=request.thinking_token_budget,
        stream=bool(request.stream),
        logprobs=(request.top_logprobs or 0) if wants_logprobs(request) else None,
        cache_salt=request.cache_salt,
        priority=request.priority or 0,
    )


def conversation(
    request: PromptRequest, *, variables: dict[str, Any] | None = None, **others: Any
) -> GenerationRequest:
    """The part that decides the prompt, and `others` beside it."""
    _refuse_unsupported_prompt(request)
    verbosity = request.text.verbosity if request.text else None
    messages = _messages(request)
    if not messages:
        raise invalid("input", "'input' is missing: there is nothing to answer.")
    return GenerationRequest(
        input=Conversation(
            messages=messages,
            shorten=request.truncation == "auto",
            # A hint, for templates that know of it.
            variables={**({} if verbosity is None else {"verbosity": verbosity}), **(variables or {})},
            reasoning_effort=request.reasoning.effort if request.reasoning else None,
        ),
        model=request.model,
        tool_use=tool_use(request),
        server_tools=server_tools(request),
        constraint=_constraint(request),
        fields=_FIELDS,
        **others,
    )


def wants_logprobs(request: ResponsesRequest) -> bool:
    """Whether the log-probabilities of the answer's tokens are told."""
    return bool(request.top_logprobs) or "message.output_text.logprobs" in (request.include or ())


_SAMPLED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


def _messages(request: PromptRequest) -> list[dict[str, Any]]:
    """As templates know messages: what an assistant thinks, says and calls in a row is one."""
    shown: list[dict[str, Any]] = []
    if request.instructions:
        shown.append({"role": "system", "content": request.instructions})
    gathered = _Gathered(shown)
    for item in request.history or ():
        gathered.add(item, "previous_response_id")
    for at, item in enumerate(request.items):
        gathered.add(item, "input" if isinstance(request.input, str) else f"input[{at}]")
    gathered.end()
    return shown


class _Gathered:
    """Items that become messages."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self._messages = messages
        self._calls: set[str] = set()
        self._turn: dict[str, Any] | None = None
        """The assistant's message that goes on."""
        self._results: list[dict[str, Any]] = []
        """Of the calls of that message that were run where it was made."""
        self._number: int | None = None
        """Which of the answers there it was."""

    def add(self, item: InputItem, place: str) -> None:
        """Put one more item after the others; `place` is what the client calls it."""
        if self._results and (item.type != "mcp_call" or item.turn is None or item.turn != self._number):
            self.end()
        match item.type:
            case "mcp_call":
                self._made(item, place)
            case "message":
                self._message(item, place)
            case "reasoning":
                self._reasoning(item, place)
            case "function_call":
                self._call(item)
            case "function_call_output":
                self._output(item, place)
            case "item_reference":
                raise invalid(f"{place}.id", f"'{place}' refers to an item, and no items are stored here.")
            case _:
                raise unsupported(f"{place}.type", f"Items of type '{item.type}' are not supported.")

    def _message(self, item: InputItem, place: str) -> None:
        text = _text(item.content, f"{place}.content")
        if item.role != "assistant":
            self._turn = None
            self._messages.append({"role": item.role, "content": text})
        elif self._turn is None or (self._turn["content"] and "tool_calls" not in self._turn):
            self._begin()["content"] = text
        else:
            # The text comes after what was thought, or goes on after a call.
            self._turn["content"] += text

    def _reasoning(self, item: InputItem, place: str) -> None:
        """What is in the open goes with what follows; a summary stands in for it."""
        text = _text(item.content, f"{place}.content") or _text(item.summary, f"{place}.summary")
        if text:
            self._begin()["reasoning_content"] = text

    def _call(self, item: InputItem) -> None:
        if item.status == "incomplete" and not _is_json(item.arguments or ""):
            # It was cut off: nobody can have made it, and templates cannot show it.
            return
        self._calls.add(item.call_id or "")
        self._add_call(item.call_id, item)

    def _add_call(self, call_id: str | None, item: InputItem) -> None:
        arguments = item.arguments or ""
        if item.type == "mcp_call" and not _is_json(arguments):
            # The model was told so; templates cannot show it.
            arguments = "{}"
        call = {"name": item.name, "arguments": arguments}
        turn = self._turn or self._begin()
        turn.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": call})

    def _made(self, item: InputItem, place: str) -> None:
        """A call that was run where it was made, and what it gave."""
        self._add_call(item.id, item)
        self._number = item.turn
        output = _text(item.output, f"{place}.output") or "the call was not run"
        self._results.append({"role": "tool", "tool_call_id": item.id, "name": item.name, "content": output})

    def end(self) -> None:
        """All has been added, or all of a turn whose calls were run where it was made."""
        if self._results:
            self._messages += self._results
            self._results, self._turn = [], None

    def _output(self, item: InputItem, place: str) -> None:
        if item.call_id not in self._calls:
            problem = f"No tool call found for function call output with call_id {item.call_id}."
            raise invalid(f"{place}.call_id", problem)
        self._turn = None
        text = _text(item.output, f"{place}.output")
        self._messages.append({"role": "tool", "tool_call_id": item.call_id, "content": text})

    def _begin(self) -> dict[str, Any]:
        self._turn = {"role": "assistant", "content": ""}
        self._messages.append(self._turn)
        return self._turn


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _text(content: Content | None, place: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for number, part in enumerate(content):
        if part.shown is None:
            raise unsupported(f"{place}[{number}].type", f"Content of type '{part.type}' is not supported; send text.")
    return "\n".join(part.shown or "" for part in content)


def _constraint(request: PromptRequest) -> Constraint | None:
    given = request.text.format if request.text else None
    if given is None or given.type == "text":
        return None
    if given.schema_ is None:
        return Constraint("json_object", field="text.format")
    return Constraint("json_schema", given.schema_, "text.format.schema")


def _refuse_unsupported_prompt(request: PromptRequest) -> None:
    if request.previous_response_id and request.history is None:
        raise unsupported("previous_response_id", "No responses are stored here.")
    if request.conversation is not None:
        raise unsupported("conversation", "Conversations are not stored here; use 'previous_response_id'.")
    reasoning = request.reasoning
    if reasoning is None:
        return
    for field in ("summary", "generate_summary"):
        if getattr(reasoning, field) not in (None, "auto"):
            raise unsupported(
                f"reasoning.{field}", "Reasoning is not summed up here, but told as it is; leave this at 'auto'."
            )
    if reasoning.context not in (None, "auto"):
        raise unsupported("reasoning.context", "The model's own template decides what it sees of earlier reasoning.")
    if reasoning.mode not in (None, "standard"):
        raise unsupported("reasoning.mode", "There is one mode, 'standard'.")


def _refuse_unsupported(request: ResponsesRequest) -> None:
    if request.stream_options is not None:
        if not request.stream:
            raise invalid("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        if request.stream_options.include_obfuscation:
            raise unsupported("stream_options.include_obfuscation", "Obfuscation of streams is not supported.")
    if request.background and request.store is False:
        raise invalid("store", "A response in the background is stored; leave 'store' true.")
    for field in _UNSUPPORTED:
        if getattr(request, field):
            raise unsupported(field, f"'{field}' is not supported.")


_UNSUPPORTED: Sequence[str] = (
    "access_programs",
    "background_options",
    "context_management",
    "image",
    "moderation",
    "prompt",
)
