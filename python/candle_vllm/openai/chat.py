"""Chat Completions: from the request to the road, from events to chunks and the whole reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from candle_vllm.generation import (
    Account,
    Answer,
    Constraint,
    Continued,
    Conversation,
    Event,
    Finished,
    FinishText,
    GenerationRequest,
    PromptLogprobs,
    Reasoning,
    Reply,
    ServerCallArguments,
    ServerCallEnded,
    ServerCallStarted,
    ServerTools,
    Started,
    Status,
    Text,
    Tokens,
    ToolArguments,
    ToolCallStarted,
    ToolUse,
)
from candle_vllm.models import TokenTexts
from candle_vllm.openai.chat_mcp import Turns, calls_of, made_before, server_tools_of, text_of
from candle_vllm.openai.chat_types import (
    AllowedToolsChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionMessageToolCall,
    ChatCompletionRequest,
    ChatFinish,
    ChatMessage,
    Choice,
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
    ChoiceLogprobs,
    ChunkChoice,
    FunctionCall,
    NamedFunction,
    NamedToolChoice,
    WaitMetadata,
    check_results,
)
from candle_vllm.openai.endpoint import Endpoint, TextFrame, fresh_id, now
from candle_vllm.openai.errors import invalid, unsupported
from candle_vllm.openai.logprobs import chat_logprobs, prompt_logprobs
from candle_vllm.openai.request import constraint_of, refuse_unsupported, road_fields
from candle_vllm.openai.usage import usage_of
from candle_vllm.records import TokenLogprob

__all__ = ["CHAT_COMPLETION"]


def parse(request: ChatCompletionRequest) -> GenerationRequest:
    """What the request asks of the road. Raises a 400 for each field that cannot be honoured."""
    here = server_tools_of(request)
    refuse_unsupported(request)
    _refuse_unsupported_chat(request, here)
    newer = request.max_completion_tokens is not None
    continued = bool(request.continue_final_message)
    opens = request.add_generation_prompt
    return GenerationRequest(
        input=Conversation(
            messages=[shown for message in request.messages for shown in _messages(message)],
            documents=request.documents or (),
            add_generation_prompt=not continued if opens is None else opens,
            continue_final_message=continued,
            variables=request.chat_template_kwargs or {},
            reasoning_effort=request.reasoning_effort,
        ),
        **road_fields(request),
        max_tokens=request.max_completion_tokens if newer else request.max_tokens,
        tool_use=_tool_use(request, here),
        server_tools=here,
        constraint=_constraint(request),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
        thinking_budget=request.thinking_token_budget,
        fields={
            "max_tokens": "max_completion_tokens" if newer else "max_tokens",
            "prompt": "messages",
            "stop_sequences": "stop",
            "variables": "chat_template_kwargs",
            "grammar": "tools",
            "thinking_budget": "thinking_token_budget",
            "server_tools": "mcp",
        },
    )


def _messages(message: ChatMessage) -> list[dict[str, Any]]:
    """As templates know messages; behind those of calls that a server made before this one."""
    return [*made_before(message.mcp_calls or ()), _message(message)]


def _message(message: ChatMessage) -> dict[str, Any]:
    """The older forms of calls and their results in the newer ones."""
    shown = message.model_dump(exclude_none=True, exclude={"mcp_calls"})
    if (call := shown.pop("function_call", None)) is not None:
        shown["tool_calls"] = [{"id": call["name"], "type": "function", "function": call}]
    if message.role == "function":
        shown.update(role="tool", tool_call_id=message.name)
    return shown


def _tool_use(request: ChatCompletionRequest, here: ServerTools | None) -> ToolUse | None:
    """The client's tools, and whether one of them or of those run here must be called; None where none may be."""
    if request.functions:
        given = [each.model_dump(exclude_none=True) for each in request.functions]
        tools: list[dict[str, Any]] = [{"type": "function", "function": each} for each in given]
        choice: Any = request.function_call
    else:
        tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
        choice = request.tool_choice
    # Tools that are run here have no names yet.
    checked = here is None or not here.asked
    if choice == "none" or (checked and not tools):
        return None
    names = {tool["function"]["name"] for tool in tools}
    parallel = request.parallel_tool_calls is not False and not request.functions
    if isinstance(choice, AllowedToolsChoice):
        allowed = frozenset(tool.function.name for tool in choice.allowed_tools.tools)
        if checked and (unknown := allowed - names):
            raise invalid("tool_choice", f"'tool_choice' allows '{min(unknown)}', which is none of the 'tools'.")
        return ToolUse(tools=tools, choice=choice.allowed_tools.mode, allowed=allowed, parallel=parallel)
    if isinstance(choice, NamedToolChoice | NamedFunction):
        field = "function_call" if request.functions else "tool_choice"
        name = choice.name if isinstance(choice, NamedFunction) else choice.function.name
        if checked and name not in names:
            raise invalid(field, f"'{field}' names '{name}', which is none of the tools given.")
        return ToolUse(tools=tools, choice=name, parallel=False)
    return ToolUse(tools=tools, choice=choice or "auto", parallel=parallel)


def _constraint(request: ChatCompletionRequest) -> Constraint | None:
    extra = constraint_of(request)
    given = request.response_format
    if given is None or given.type == "text":
        return extra
    if extra is not None:
        raise invalid("response_format", f"'response_format' and '{extra.field}' both give the answer's form.")
    if given.json_schema is None:
        return Constraint("json_object", field="response_format")
    schema = given.json_schema.schema_
    return Constraint("json_schema", {} if schema is None else schema, "response_format.json_schema.schema")


def _refuse_unsupported_chat(request: ChatCompletionRequest, here: ServerTools | None) -> None:
    if request.tools and request.functions:
        raise invalid("functions", "'functions' is the older form of 'tools'; give one of them.")
    for choice, tools in (("tool_choice", "tools"), ("function_call", "functions")):
        has_tools = getattr(request, tools) or (tools == "tools" and here is not None and here.asked)
        if getattr(request, choice) not in (None, "none", "auto") and not has_tools:
            raise invalid(choice, f"'{choice}' is only allowed when '{tools}' are specified.")
    if (orphan := check_results(request.messages)) is not None:
        raise invalid(
            f"messages[{orphan}].tool_call_id",
            f"messages[{orphan}] has role 'tool' but answers none of the 'tool_calls' of a message before it.",
        )
    if request.modalities is not None and request.modalities != ["text"]:
        raise unsupported("modalities", "Only text is generated; 'modalities' can only be [\"text\"].")
    for field in ("audio", "web_search_options", "moderation"):
        if getattr(request, field) is not None:
            raise unsupported(field, f"'{field}' is not supported.")
    if request.max_tokens == 0:
        raise invalid("max_tokens", "'max_tokens' must be at least 1.")
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.")


class ChatWriter:
    """Writes one chat's chunks or its reply."""

    def __init__(self, request: ChatCompletionRequest, account: Account) -> None:
        self._account = account
        self._top = request.top_logprobs or 0
        self._with_logprobs = bool(request.logprobs)
        self._with_ids = bool(request.return_token_ids)
        self._with_tokens = self._with_logprobs or self._with_ids
        self._told: set[int] = set()
        self._legacy = bool(request.functions)
        options = request.stream_options
        self._usage_at_end = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._started: Started | None = None
        self._frames: dict[tuple[type[Event], int, int], TextFrame] = {}
        self._pending: dict[int, list[Tokens]] = {}
        self._turns = Turns()
        self._head: dict[str, Any] = {
            "id": fresh_id("chatcmpl", account),
            "object": "chat.completion.chunk",
            "created": now(),
            "model": request.model,
            "service_tier": "default",
        }
        if self._usage_at_end:
            self._head["usage"] = None

    def chunks(self, event: Event) -> Sequence[ChatCompletionChunk]:
        """The chunks that this event makes due."""
        match event:
            case Text(index):
                text = self._turns.joined(event)
                return [self._chunk(index, ChoiceDelta(content=text), self._pending.pop(index, None))]
            case Reasoning(index):
                text = self._turns.joined(event)
                return [self._chunk(index, ChoiceDelta(reasoning=text, reasoning_content=text))]
            case ServerCallStarted() | ServerCallArguments() | ServerCallEnded():
                return [self._chunk(event.index, ChoiceDelta(mcp_calls=[self._turns.delta(event)]))]
            case Continued():
                return self._turns.continued(event)
            case ToolCallStarted() | ToolArguments():
                return [self._chunk(event.index, self._call_delta(event))]
            case Tokens(index):
                # They go with the text that they complete.
                self._pending.setdefault(index, []).append(event)
                return []
            case Finished(index, reason):
                # An answer without any tokens tells empty lists of them.
                left = self._pending.pop(index, None if index in self._told or not self._with_tokens else [])
                unseen = [] if left is None else [self._chunk(index, ChoiceDelta(content=""), left)]
                last = self._chunk(index, ChoiceDelta(), finish=self._finish(reason))
                if event.bound is not None:
                    last.choices[0].stop_reason = event.bound
                return [*unseen, last]
            case Started():
                self._start(event)
                opening = ChoiceDelta(role="assistant", content="", refusal=None)
                chunks = [self._chunk(index, opening) for index in range(event.answers)]
                if self._with_ids:
                    chunks[0].prompt_token_ids = list(event.prompts[0])
                if self._account.warnings:
                    chunks[0].warnings = self._account.warnings
                return chunks
            case PromptLogprobs(index, entries):
                chunk = self._chunk(index, ChoiceDelta())
                chunk.prompt_logprobs = prompt_logprobs(entries, self._texts)
                return [chunk]
            case Status(wait):
                metadata = WaitMetadata(
                    status=wait.status, position=wait.position, model=wait.model, eta_ms=wait.eta_ms
                )
                self._head["model"] = self._head["model"] or wait.model
                return [self._chunk(0, ChoiceDelta()).model_copy(update={"candle_metadata": metadata})]
            case _:
                return []

    def quick(self, event: Event) -> str | None:
        """The JSON text of a plain piece of text, of thinking or of a call's arguments."""
        if self._usage_always or self._turns.several:
            return None
        key: tuple[type[Event], int, int]
        match event:
            case Text(index) | Reasoning(index):
                if index in self._pending:
                    return None
                self._turns.joined(event)
                key = (type(event), index, 0)
            case ToolArguments(index, call) if not self._legacy:
                key = (ToolArguments, index, call)
            case _:
                return None
        frame = self._frames.get(key)
        if frame is None:
            [marked] = self.chunks(replace(event, text=TextFrame.MARK))
            frame = self._frames[key] = TextFrame(marked)
        return frame.around(event.text)

    def closing(self) -> Sequence[ChatCompletionChunk]:
        """The chunk with the usage, where it was asked for."""
        if not self._usage_at_end:
            return []
        return [ChatCompletionChunk(**{**self._head, "choices": [], "usage": usage_of(self._account)})]

    def reply(self, reply: Reply) -> ChatCompletion:
        """The whole reply."""
        self._start(reply.started)
        fields = {**self._head, "object": "chat.completion", "usage": usage_of(self._account)}
        if self._with_ids:
            fields["prompt_token_ids"] = list(reply.started.prompts[0])
        if (entries := reply.answers[0].prompt_logprobs) is not None:
            fields["prompt_logprobs"] = prompt_logprobs(entries, self._texts)
        if self._account.warnings:
            fields["warnings"] = self._account.warnings
        return ChatCompletion(**fields, choices=[self._choice(*each) for each in enumerate(reply.answers)])

    def _start(self, started: Started) -> None:
        self._started = started
        self._head["model"] = started.name
        self._head["system_fingerprint"] = started.model.fingerprint

    def _choice(self, index: int, answer: Answer) -> Choice:
        if answer.finished is None:
            raise RuntimeError("an answer has no end")
        choice = Choice(
            index=index,
            message=self._message(answer),
            logprobs=None,
            finish_reason=self._finish(answer.finished.reason),
        )
        if self._with_logprobs:
            choice.logprobs = self._logprobs([entry for turn in answer.turns for entry in turn.logprobs])
        if answer.finished.bound is not None:
            choice.stop_reason = answer.finished.bound
        if self._with_ids:
            choice.token_ids = [token for turn in answer.turns for token in turn.token_ids]
        return choice

    def _message(self, answer: Answer) -> ChatCompletionMessage:
        calls = [FunctionCall(name=call.name, arguments=call.arguments) for call in answer.calls]
        text = text_of(answer, lambda turn: turn.text)
        fields: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls and not text:
            fields["content"] = None
        if reasoning := text_of(answer, lambda turn: turn.reasoning):
            fields["reasoning"] = fields["reasoning_content"] = reasoning
        if made := calls_of(answer):
            fields["mcp_calls"] = made
        if calls and self._legacy:
            fields["function_call"] = calls[0]
        elif calls:
            fields["tool_calls"] = [
                ChatCompletionMessageToolCall(id=call.id, type="function", function=function)
                for call, function in zip(answer.calls, calls, strict=True)
            ]
        return ChatCompletionMessage(**fields)

    def _call_delta(self, event: ToolCallStarted | ToolArguments) -> ChoiceDelta:
        """What an event adds to a call; of the older form the first call alone is told."""
        if isinstance(event, ToolCallStarted):
            function = ChoiceDeltaToolCallFunction(name=event.name, arguments="")
            call = ChoiceDeltaToolCall(index=event.call, id=event.id, type="function", function=function)
        else:
            function = ChoiceDeltaToolCallFunction(arguments=event.text)
            call = ChoiceDeltaToolCall(index=event.call, function=function)
        if not self._legacy:
            return ChoiceDelta(tool_calls=[call])
        return ChoiceDelta(function_call=function) if event.call == 0 else ChoiceDelta()

    def _finish(self, reason: FinishText) -> ChatFinish:
        return "function_call" if self._legacy and reason == "tool_calls" else reason

    def _chunk(
        self, index: int, delta: ChoiceDelta, tokens: Sequence[Tokens] | None = None, finish: ChatFinish | None = None
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=finish)
        if tokens is not None:
            self._told.add(index)
        if tokens is not None and self._with_logprobs:
            choice.logprobs = self._logprobs([entry for piece in tokens for entry in piece.logprobs])
        if tokens is not None and self._with_ids:
            choice.token_ids = [token for piece in tokens for token in piece.ids]
        if self._usage_always:
            return ChatCompletionChunk(**{**self._head, "choices": [choice], "usage": usage_of(self._account)})
        return ChatCompletionChunk(**self._head, choices=[choice])

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> ChoiceLogprobs:
        return ChoiceLogprobs(content=chat_logprobs(entries, self._top, self._texts), refusal=None)

    @property
    def _texts(self) -> TokenTexts:
        if self._started is None:
            raise RuntimeError("tokens come before the answer has started")
        return self._started.model.texts


CHAT_COMPLETION = Endpoint(
    name="chat_completion",
    path="/v1/chat/completions",
    request=ChatCompletionRequest,
    reply=ChatCompletion,
    chunk=ChatCompletionChunk,
    parse=parse,
    writer=ChatWriter,
    warns=True,
)
