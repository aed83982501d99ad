"""fold: the events of a request gathered into whole answers. The reply that does not stream is written from these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from candle_vllm.generation.events import (
    Event,
    Finished,
    PromptLogprobs,
    Reasoning,
    Started,
    Text,
    Tokens,
    ToolArguments,
    ToolCallStarted,
)
from candle_vllm.records import TokenLogprob

__all__ = ["Answer", "Call", "Reply", "fold"]


@dataclass(slots=True)
class Call:
    """One call of a tool."""

    id: str
    name: str
    arguments: str = ""
    """JSON text."""


@dataclass(slots=True)
class Answer:
    """One whole answer."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """Of the text, where log-probabilities were asked for."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: Sequence[TokenLogprob | None] | None = None
    finished: Finished | None = None


@dataclass(slots=True)
class Reply:
    """All answers of a request."""

    started: Started
    answers: list[Answer]

    @property
    def scores(self) -> int:
        """Log-probabilities in all, those of other candidates included: what writing it costs is about that."""
        lists = [entries for one in self.answers for entries in (one.logprobs, one.prompt_logprobs or ())]
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
        case Tokens(index, ids, logprobs):
            reply.answers[index].token_ids += ids
            reply.answers[index].logprobs += logprobs
        case PromptLogprobs(index, entries):
            reply.answers[index].prompt_logprobs = entries
        case Finished(index):
            reply.answers[index].finished = event
        case _:
            pass
