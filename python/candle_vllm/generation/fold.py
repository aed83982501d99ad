"""fold: the events of a request gathered into whole answers. The reply that does not stream is written from these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from candle_vllm.generation.events import (
    Continued,
    Event,
    Finished,
    PromptLogprobs,
    Reasoning,
    ServerCallArguments,
    ServerCallEnded,
    ServerCallStarted,
    Started,
    Text,
    Tokens,
    ToolArguments,
    ToolCallStarted,
)
from candle_vllm.records import TokenLogprob

__all__ = ["Answer", "Call", "Reply", "ServerCall", "fold"]


@dataclass(slots=True)
class Call:
    """One call of a tool."""

    id: str
    name: str
    arguments: str = ""
    """JSON text."""


@dataclass(slots=True)
class ServerCall(Call):
    """One call that was run here."""

    server: str | None = None
    text: str = ""
    """What the model was told."""
    outcome: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Answer:
    """One whole answer, or one turn of it."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """Of the text, where log-probabilities were asked for."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: Sequence[TokenLogprob | None] | None = None
    finished: Finished | None = None
    server_calls: list[ServerCall] = field(default_factory=list)
    """Of the last turn, as all of the above but `prompt_logprobs`."""
    earlier: list[Answer] = field(default_factory=list)
    """The turns before the last one."""

    @property
    def turns(self) -> list[Answer]:
        """All turns, this one last."""
        return [*self.earlier, self]

    def begin_turn(self) -> None:
        """What was there becomes an earlier turn."""
        now = (self.text, self.reasoning, self.calls, self.token_ids, self.logprobs)
        self.earlier.append(Answer(*now, server_calls=self.server_calls))
        self.text = self.reasoning = ""
        self.calls, self.token_ids, self.logprobs, self.server_calls = [], [], [], []


@dataclass(slots=True)
class Reply:
    """All answers of a request."""

    started: Started
    answers: list[Answer]

    @property
    def scores(self) -> int:
        """Log-probabilities in all, those of other candidates included: what writing it costs is about that."""
        turns = [turn for answer in self.answers for turn in answer.turns]
        lists = [entries for one in turns for entries in (one.logprobs, one.prompt_logprobs or ())]
        return sum(1 + len(entry.top) for entries in lists for entry in entries if entry is not None)


async def fold(events: AsyncIterator[Event]) -> Reply:
    """Read a request's events to their end."""
    reply: Reply | None = None
    async for event in events:
        if isinstance(event, Started):
            reply = Reply(event, [Answer() for _ in range(event.answers)])
        elif reply is not None:
            add(reply, event)
    if reply is None:
        raise RuntimeError("the events ended before they began")
    return reply


def add(reply: Reply, event: Event) -> None:
    """Put one event into its answer."""
    match event:
        case Text(index, text):
            reply.answers[index].text += text
        case Reasoning(index, text):
            reply.answers[index].reasoning += text
        case ToolCallStarted(index, _, id, name):
            reply.answers[index].calls.append(Call(id, name))
        case ToolArguments(index, call, text):
            reply.answers[index].calls[call].arguments += text
        case ServerCallStarted(index, _, id, name, server):
            reply.answers[index].server_calls.append(ServerCall(id, name, server=server))
        case ServerCallArguments() | ServerCallEnded():
            _add_to_call(reply.answers[event.index], event)
        case Continued(index):
            reply.answers[index].begin_turn()
        case Tokens(index, ids, logprobs):
            reply.answers[index].token_ids += ids
            reply.answers[index].logprobs += logprobs
        case PromptLogprobs(index, entries):
            reply.answers[index].prompt_logprobs = entries
        case Finished(index):
            reply.answers[index].finished = event
        case _:
            pass


def _add_to_call(answer: Answer, event: ServerCallArguments | ServerCallEnded) -> None:
    call = answer.server_calls[event.call - sum(len(turn.server_calls) for turn in answer.earlier)]
    if isinstance(event, ServerCallArguments):
        call.arguments += event.text
    else:
        call.text, call.outcome, call.seconds = event.text, event.outcome, event.seconds
