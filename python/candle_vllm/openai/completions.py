"""Legacy Completions: from the request to the road, from events to chunks and the whole reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from candle_vllm.generation import (
    Account,
    Event,
    Finished,
    FinishText,
    GenerationRequest,
    PromptLogprobs,
    Prompts,
    Reply,
    Started,
    Status,
    Text,
    Tokens,
)
from candle_vllm.openai.chat_types import WaitMetadata
from candle_vllm.openai.completion_types import Completion, CompletionChoice, CompletionRequest, Logprobs
from candle_vllm.openai.endpoint import Endpoint, TextFrame, fresh_id, now
from candle_vllm.openai.errors import invalid, unsupported
from candle_vllm.openai.logprobs import CompletionLogprobs, prompt_logprobs
from candle_vllm.openai.request import constraint_of, refuse_unsupported, road_fields
from candle_vllm.openai.usage import usage_of
from candle_vllm.records import TokenLogprob

__all__ = ["COMPLETION"]

# OpenAI's default for legacy completions.
_DEFAULT_MAX_TOKENS = 16


def parse(request: CompletionRequest) -> GenerationRequest:
    """What the request asks of the road. Raises a 400 for each field that cannot be honoured."""
    refuse_unsupported(request)
    if request.suffix and request.echo:
        raise invalid("echo", "'echo' shows what an answer follows; with a 'suffix' it stands between two texts.")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise unsupported("best_of", "Only the answers asked for are generated; leave 'best_of' out or equal to 'n'.")
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "'max_tokens' may be 0 only together with 'echo'.")
    return GenerationRequest(
        input=Prompts(
            items=_prompts(request),
            add_special_tokens=request.add_special_tokens is not False,
            suffix=request.suffix or None,
        ),
        **road_fields(request),
        max_tokens=_DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        logprobs=request.logprobs,
        prompt_logprobs=_scores(request),
        constraint=constraint_of(request),
        fields={
            "stop_sequences": "stop",
            "prompt_logprobs": "logprobs" if request.prompt_logprobs is None else "prompt_logprobs",
        },
    )


def _scores(request: CompletionRequest) -> int | None:
    """Log-probabilities of the prompt that are needed: what is asked for, and what an echoed prompt shows."""
    asked, echoed = request.prompt_logprobs, request.logprobs if request.echo else None
    if asked is None or echoed is None:
        return echoed if asked is None else asked
    return -1 if asked < 0 else max(asked, echoed)


def _prompts(request: CompletionRequest) -> list[str | list[int]]:
    prompt: Any = request.prompt
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)


class _Echo:
    """What an answer still has to show of its prompt."""

    def __init__(self, text: str, ids: Sequence[int]) -> None:
        self.text = text
        self.ids = ids


class CompletionWriter:
    """Writes one completion's chunks or its reply."""

    def __init__(self, request: CompletionRequest, account: Account) -> None:
        self._account = account
        self._request = request
        options = request.stream_options
        self._usage_at_end = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._frames: dict[int, TextFrame] = {}
        self._echoes: dict[int, _Echo] = {}
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._waiting: dict[int, tuple[list[int], list[TokenLogprob | None]]] = {}
        self._scored: dict[int, Sequence[TokenLogprob | None]] = {}
        self._started: Started | None = None
        self._warned = False
        self._head: dict[str, Any] = {
            "id": fresh_id("cmpl", account),
            "object": "text_completion",
            "created": now(),
            "model": request.model,
        }

    def chunks(self, event: Event) -> Sequence[Completion]:
        """The chunks that this event makes due."""
        match event:
            case Text(index, text):
                return [self._chunk(self._shown(index, text, None))]
            case Tokens(index, ids, logprobs):
                self._await(index, ids, logprobs)
                return []
            case PromptLogprobs(index, entries):
                self._take_scores(index, entries)
                return []
            case Finished(index, reason):
                return [self._chunk(self._shown(index, "", reason))]
            case Started():
                self._start(event)
                return []
            case Status(wait):
                metadata = WaitMetadata(
                    status=wait.status, position=wait.position, model=wait.model, eta_ms=wait.eta_ms
                )
                nothing = CompletionChoice(index=0, text="", logprobs=None, finish_reason=None)
                self._head["model"] = self._head["model"] or wait.model
                return [self._chunk(nothing).model_copy(update={"candle_metadata": metadata})]
            case _:
                return []

    def quick(self, event: Event) -> str | None:
        """The JSON text of a plain piece of text."""
        if type(event) is not Text or self._special(event.index):
            return None
        frame = self._frames.get(event.index)
        if frame is None:
            marked = CompletionChoice(index=event.index, text=TextFrame.MARK, logprobs=None, finish_reason=None)
            frame = self._frames[event.index] = TextFrame(self._chunk(marked))
        return frame.around(event.text)

    def _special(self, index: int) -> bool:
        """Whether the next chunk of this answer holds more than its text."""
        told = self._warned or not self._account.warnings
        return (
            self._usage_always
            or not told
            or any(index in waiting for waiting in (self._waiting, self._echoes, self._scored))
            or bool(self._logprobs)
        )

    def closing(self) -> Sequence[Completion]:
        """The chunk with the usage, where it was asked for."""
        return [Completion(**self._head, choices=[], usage=usage_of(self._account))] if self._usage_at_end else []

    def reply(self, reply: Reply) -> Completion:
        """The whole reply."""
        self._start(reply.started)
        choices = []
        for index, answer in enumerate(reply.answers):
            if answer.finished is None:
                raise RuntimeError("an answer has no end")
            if answer.prompt_logprobs is not None:
                self._take_scores(index, answer.prompt_logprobs)
            self._await(index, answer.token_ids, answer.logprobs)
            choices.append(self._shown(index, answer.text, answer.finished.reason))
        return Completion(**self._head, **self._warnings(), choices=choices, usage=usage_of(self._account))

    def _start(self, started: Started) -> None:
        self._started = started
        self._head["model"] = started.name
        self._head["system_fingerprint"] = started.model.fingerprint
        given = _prompts(self._request)
        special = self._request.skip_special_tokens is False
        for index in range(started.answers):
            at = index // (self._request.n or 1)
            if self._request.echo:
                ids, text = started.prompts[at], given[at]
                shown = text if isinstance(text, str) else started.model.engine.detokenize(ids, not special)
                self._echoes[index] = _Echo(shown, ids)
            if self._request.logprobs is not None:
                self._logprobs[index] = CompletionLogprobs(self._request.logprobs, started.model.texts, special=special)

    def _take_scores(self, index: int, entries: Sequence[TokenLogprob | None]) -> None:
        if self._request.prompt_logprobs is not None:
            self._scored[index] = entries
        if index in self._echoes and self._request.logprobs is not None:
            self._await(index, self._echoes[index].ids, entries)

    def _await(self, index: int, ids: Sequence[int], entries: Sequence[TokenLogprob | None]) -> None:
        """Keep these tokens for the text that they complete."""
        all_ids, all_entries = self._waiting.setdefault(index, ([], []))
        all_ids += ids
        all_entries += entries

    def _shown(self, index: int, text: str, finish: FinishText | None) -> CompletionChoice:
        """What an answer shows next, the echoed prompt first."""
        if (echo := self._echoes.pop(index, None)) is not None:
            text = echo.text + text
        logprobs: Logprobs | None = None
        ids, entries = self._waiting.pop(index, ([], []))
        if index in self._logprobs:
            logprobs = self._logprobs[index].build(entries, ids, text)
        choice = CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=finish)
        if self._request.return_token_ids:
            choice.token_ids = ids
        if self._started is not None and (scored := self._scored.pop(index, None)) is not None:
            choice.prompt_logprobs = prompt_logprobs(scored, self._started.model.texts)
        return choice

    def _warnings(self) -> dict[str, Any]:
        """What the request's reader left aside; told once."""
        told, self._warned = self._warned, True
        return {"warnings": self._account.warnings} if self._account.warnings and not told else {}

    def _chunk(self, choice: CompletionChoice) -> Completion:
        fields = {**self._head, **self._warnings(), "choices": [choice]}
        if self._usage_always:
            fields["usage"] = usage_of(self._account)
        elif self._usage_at_end:
            fields["usage"] = None
        return Completion(**fields)


COMPLETION = Endpoint(
    name="completion",
    path="/v1/completions",
    request=CompletionRequest,
    reply=Completion,
    chunk=Completion,
    parse=parse,
    writer=CompletionWriter,
    warns=True,
)
