"""Ollama's chat, generate, tags, show, ps and version: rows of the tables, on the one road."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from candle_vllm.generation import (
    Account,
    Constraint,
    Conversation,
    Event,
    Finished,
    GenerationRequest,
    Prompts,
    Reasoning,
    Reply,
    Road,
    Started,
    Text,
    ToolArguments,
    ToolCallStarted,
    ToolUse,
)
from candle_vllm.models import LoadedModel, ModelEntry
from candle_vllm.ollama.types import (
    CalledFunction,
    ChatChunk,
    ChatRequest,
    Details,
    Empty,
    GenerateChunk,
    GenerateRequest,
    Listed,
    Message,
    Options,
    ShowReply,
    ShowRequest,
    Tags,
    ToolCall,
    Version,
)
from candle_vllm.openai.endpoint import Endpoint, Query
from candle_vllm.openai.errors import ApiError, invalid, unsupported

__all__ = ["ENDPOINTS", "QUERIES"]

# Of the API that is spoken here; clients ask for it to know what they may send.
_VERSION = "0.12.0"
_NAMES = {"max_tokens": "options.num_predict", "stop_sequences": "options.stop", "prompt": "prompt"}


def envelope(error: ApiError) -> dict[str, Any]:
    """The form of Ollama's errors: a text."""
    return {"error": error.message}


def _model(name: str) -> str:
    """A name without the tag that Ollama adds to names without one."""
    return name.removesuffix(":latest")


def _sampling(options: Options) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: value
        for name in ("temperature", "min_p", "frequency_penalty", "presence_penalty")
        if (value := getattr(options, name)) is not None
    }
    if options.repeat_penalty is not None:
        fields["repetition_penalty"] = options.repeat_penalty
    if options.top_p is not None:
        fields["top_p"] = max(options.top_p, 1e-6)
    if options.top_k is not None:
        fields["top_k"] = options.top_k if options.top_k > 0 else None
    if options.seed is not None:
        fields["seed"] = options.seed & (2**64 - 1)
    if options.stop:
        fields["stop_sequences"] = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop)
    return fields


def _shared(request: ChatRequest | GenerateRequest) -> dict[str, Any]:
    """What both endpoints ask of the road alike."""
    if getattr(request, "images", None):
        raise unsupported("images", "'images' cannot be honoured: this model reads text alone.")
    wanted = request.options.num_predict
    form = request.format or None
    return {
        "model": _model(request.model),
        "sampling": _sampling(request.options),
        "max_tokens": None if wanted is None or wanted < 0 else max(wanted, 1),
        "stream": request.stream,
        "constraint": None
        if form is None
        else Constraint("json_object", field="format")
        if form == "json"
        else Constraint("json_schema", form, "format"),
        "fields": _NAMES,
    }


def _effort(think: bool | str | None) -> str | None:
    return None if think is None else think if isinstance(think, str) else "medium" if think else "none"


def parse_chat(request: ChatRequest) -> GenerationRequest:
    """What a chat asks of the road."""
    if not request.messages:
        return GenerationRequest(input=Conversation(messages=()), **_shared(request))
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
    return GenerationRequest(
        input=Conversation(messages=_messages(request.messages), reasoning_effort=_effort(request.think)),
        tool_use=ToolUse(tools=tools) if tools else None,
        **_shared(request),
    )


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """In OpenAI's form: calls get ids, and each result is of the first call of its tool that has none."""
    shown: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    for at, message in enumerate(messages):
        if message.images:
            raise unsupported(f"messages[{at}].images", "'images' cannot be honoured: this model reads text alone.")
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking:
            one["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [(f"call_{at}_{index}", call.function) for index, call in enumerate(message.tool_calls)]
            waiting += [(id_, function.name) for id_, function in calls]
            one["tool_calls"] = [
                {
                    "id": id_,
                    "type": "function",
                    "function": {"name": function.name, "arguments": json.dumps(function.arguments)},
                }
                for id_, function in calls
            ]
        if message.role == "tool":
            found = next((call for call in waiting if message.tool_name in (None, call[1])), None)
            if found is None:
                raise invalid(f"messages[{at}]", f"messages[{at}] has role 'tool' but answers no call before it.")
            waiting.remove(found)
            one.update(tool_call_id=found[0], name=found[1])
        shown.append(one)
    return shown


def parse_generate(request: GenerateRequest) -> GenerationRequest:
    """What a prompt asks of the road."""
    for field in ("suffix", "template", "context"):
        if getattr(request, field):
            raise unsupported(field, f"'{field}' is not supported; use /api/chat for conversations.")
    if request.raw:
        return GenerationRequest(input=Prompts(items=[request.prompt]), **_shared(request))
    system = [{"role": "system", "content": request.system}] if request.system else []
    messages = [*system, {"role": "user", "content": request.prompt}]
    effort = _effort(request.think)
    return GenerationRequest(input=Conversation(messages=messages, reasoning_effort=effort), **_shared(request))


class _Figures:
    """What all chunks of an answer share, and how it ended."""

    def __init__(self, name: str, account: Account) -> None:
        self.name = name
        self._account = account

    def going_on(self) -> dict[str, Any]:
        """Of a chunk in the middle."""
        return {"model": self.name, "created_at": _time(), "done": False}

    def ended(self, finished: Finished) -> dict[str, Any]:
        """Of the last one."""
        account, stats = self._account, finished.stats
        loading = 0.0 if account.submitted is None else account.submitted - account.started
        deciding = max(stats.total_time - stats.queue_time - stats.prefill_time, 0.0)
        return {
            "model": self.name,
            "created_at": _time(),
            "done": True,
            "done_reason": "length" if finished.reason == "length" else "stop",
            "total_duration": _nanoseconds(time.monotonic() - account.started),
            "load_duration": _nanoseconds(loading),
            "prompt_eval_count": account.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(stats.prefill_time),
            "eval_count": account.generated_tokens,
            "eval_duration": _nanoseconds(deciding),
        }


class ChatWriter:
    """Writes a chat's chunks or its reply."""

    def __init__(self, request: ChatRequest, account: Account) -> None:
        self._figures = _Figures(request.model, account)
        self._calls: list[tuple[str, str]] = []

    def chunks(self, event: Event) -> Sequence[ChatChunk]:
        """The chunks that this event makes due. A call is told when it is whole."""
        match event:
            case Text(_, text):
                return [self._piece(content=text)]
            case Reasoning(_, text):
                return [self._piece(content="", thinking=text)]
            case ToolCallStarted(name=name):
                self._calls.append((name, ""))
            case ToolArguments(call=call, text=text):
                name, arguments = self._calls[call]
                self._calls[call] = (name, arguments + text)
            case Finished():
                calls = [self._piece(content="", tool_calls=_calls(self._calls))] if self._calls else []
                end = ChatChunk(**self._figures.ended(event), message=Message(role="assistant", content=""))
                return [*calls, end]
            case _:
                pass
        return []

    def closing(self) -> Sequence[ChatChunk]:
        """Nothing more."""
        return []

    def reply(self, reply: Reply) -> ChatChunk:
        """The whole reply."""
        answer = reply.answers[0]
        if answer.finished is None:
            raise RuntimeError("an answer has no end")
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.reasoning:
            message["thinking"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = _calls([(call.name, call.arguments) for call in answer.calls])
        return ChatChunk(**self._figures.ended(answer.finished), message=Message(**message))

    def _piece(self, **message: Any) -> ChatChunk:
        return ChatChunk(**self._figures.going_on(), message=Message(role="assistant", **message))


def _calls(calls: Sequence[tuple[str, str]]) -> list[ToolCall]:
    return [ToolCall(function=CalledFunction(name=name, arguments=_object(text))) for name, text in calls]


def _object(text: str) -> dict[str, Any]:
    """Arguments as an object; those that are none, of a call that was cut off, as a text."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"arguments": text}
    return value if isinstance(value, dict) else {"arguments": value}


class GenerateWriter:
    """Writes a prompt's chunks or its reply."""

    def __init__(self, request: GenerateRequest, account: Account) -> None:
        self._figures = _Figures(request.model, account)

    def chunks(self, event: Event) -> Sequence[GenerateChunk]:
        """The chunks that this event makes due."""
        match event:
            case Text(_, text):
                return [GenerateChunk(**self._figures.going_on(), response=text)]
            case Reasoning(_, text):
                return [GenerateChunk(**self._figures.going_on(), response="", thinking=text)]
            case Finished():
                return [GenerateChunk(**self._figures.ended(event), response="")]
            case Started():
                return []
            case _:
                return []

    def closing(self) -> Sequence[GenerateChunk]:
        """Nothing more."""
        return []

    def reply(self, reply: Reply) -> GenerateChunk:
        """The whole reply."""
        answer = reply.answers[0]
        if answer.finished is None:
            raise RuntimeError("an answer has no end")
        fields: dict[str, Any] = {**self._figures.ended(answer.finished), "response": answer.text}
        if answer.reasoning:
            fields["thinking"] = answer.reasoning
        return GenerateChunk(**fields)


async def _tags(request: Empty, road: Road) -> Tags:
    active = road.models.active
    return Tags(models=[_listed(entry, active) for entry in road.models.listing()])


async def _running(request: Empty, road: Road) -> Tags:
    active = road.models.active
    return Tags(models=[_listed(entry, active) for entry in road.models.listing() if entry.active])


async def _show(request: ShowRequest, road: Road) -> ShowReply:
    async with road.models.lease(_model(request.model)) as model:
        info, template = model.info, model.engine.chat_templates.get("default", "")
        capabilities = ["completion"]
        if template:
            capabilities.append("tools")
        if model.reasoning.marks:
            capabilities.append("thinking")
        family = info.architecture
        return ShowReply(
            parameters="\n".join(f"{name} {value}" for name, value in model.defaults.named().items()),
            template=template,
            details=_details(model),
            model_info={
                "general.architecture": family,
                "general.parameter_count": info.parameters,
                f"{family}.context_length": info.max_position,
                f"{family}.embedding_length": info.hidden_size,
                f"{family}.block_count": info.layers,
            },
            capabilities=capabilities,
            modified_at=_time(model.created),
        )


async def _version(request: Empty, road: Road) -> Version:
    return Version(version=_VERSION)


def _listed(entry: ModelEntry, active: LoadedModel | None) -> Listed:
    loaded = active if entry.active else None
    return Listed(
        name=entry.id,
        model=entry.id,
        modified_at=_time(entry.created),
        size=loaded.info.weight_bytes if loaded else 0,
        digest=loaded.fingerprint if loaded else "",
        details=_details(loaded),
    )


def _details(model: LoadedModel | None) -> Details:
    family = model.info.architecture if model else "unknown"
    form: Literal["gguf", "safetensors"] = "gguf" if model and model.info.path.endswith(".gguf") else "safetensors"
    return Details(
        format=form,
        family=family,
        families=[family],
        parameter_size=_size(model.info.parameters) if model else "",
        quantization_level=model.info.dtype.upper() if model else "",
    )


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.2f}M"


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _time(seconds: float | None = None) -> str:
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat().replace("+00:00", "Z")


ENDPOINTS = (
    Endpoint(
        name="ollama_chat",
        path="/api/chat",
        request=ChatRequest,
        reply=ChatChunk,
        chunk=ChatChunk,
        parse=parse_chat,
        writer=ChatWriter,
        framing="lines",
        envelope=envelope,
    ),
    Endpoint(
        name="ollama_generate",
        path="/api/generate",
        request=GenerateRequest,
        reply=GenerateChunk,
        chunk=GenerateChunk,
        parse=parse_generate,
        writer=GenerateWriter,
        framing="lines",
        envelope=envelope,
    ),
)

QUERIES = (
    Query(name="ollama_tags", path="/api/tags", request=Empty, reply=Tags, answer=_tags, method="GET"),
    Query(name="ollama_ps", path="/api/ps", request=Empty, reply=Tags, answer=_running, method="GET"),
    Query(name="ollama_version", path="/api/version", request=Empty, reply=Version, answer=_version, method="GET"),
    Query(name="ollama_show", path="/api/show", request=ShowRequest, reply=ShowReply, answer=_show, envelope=envelope),
)
