"""The one typed stream of a request: what every endpoint writes from, streamed or folded. Holds no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from candle_vllm.models import LoadedModel, WaitStatus
from candle_vllm.records import GenerationStats, TokenLogprob

__all__ = [
    "Continued",
    "Event",
    "FinishText",
    "Finished",
    "PromptLogprobs",
    "Reasoning",
    "ServerCallArguments",
    "ServerCallEnded",
    "ServerCallStarted",
    "Started",
    "Status",
    "Text",
    "Tokens",
    "ToolArguments",
    "ToolCallStarted",
]

FinishText = Literal["stop", "length", "tool_calls"]
"""Why an answer ended, when it ended well."""


@dataclass(frozen=True, slots=True)
class Status:
    """The request waits for its model or its turn; before `Started` only."""

    wait: WaitStatus


@dataclass(frozen=True, slots=True)
class Started:
    """All answers are submitted. Comes once, before anything of any answer."""

    model: LoadedModel
    name: str
    """The model under the name it was asked for."""
    prompts: Sequence[Sequence[int]]
    """Token ids of each prompt; answer i belongs to prompt i // n."""
    answers: int
    """Answers over all prompts."""


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of the prompt's tokens, the first None; before the answer's own events."""

    index: int
    entries: Sequence[TokenLogprob | None]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens, with their log-probabilities where asked for, before the text that they complete.

    The token that ended the answer is not among them: it is no part of its text.
    """

    index: int
    ids: Sequence[int]
    logprobs: Sequence[TokenLogprob]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer's text, whole characters."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins to call a tool; `call` counts the calls of the answer from 0."""

    index: int
    call: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    call: int
    text: str


@dataclass(frozen=True, slots=True)
class ServerCallStarted:
    """The model begins to call a tool that is run here; `call` counts such calls of the answer from 0."""

    index: int
    call: int
    id: str
    name: str
    """As the model knows the tool."""
    server: str | None
    """The server that offers it; None where there is no such tool."""


@dataclass(frozen=True, slots=True)
class ServerCallArguments:
    """A piece of the JSON text of the arguments of such a call."""

    index: int
    call: int
    text: str


@dataclass(frozen=True, slots=True)
class ServerCallEnded:
    """Such a call has run, or was refused. Calls of a turn end in the order in which they were made."""

    index: int
    call: int
    text: str
    """What the model is told."""
    outcome: str
    """`ok`, or what kind of error the text tells of."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Continued:
    """The calls of a turn have run and the model speaks again: another turn of the same answer."""

    index: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one answer; nothing of it follows."""

    index: int
    reason: FinishText
    stop_reason: str | int | None
    """The stop text or id that hit."""
    stats: GenerationStats
    bound: str | None = None
    """Which bound ended an answer of several turns before the model did, `max_turns` say; the reason is `length`."""


Event = (
    Status
    | Started
    | PromptLogprobs
    | Tokens
    | Text
    | Reasoning
    | ToolCallStarted
    | ToolArguments
    | ServerCallStarted
    | ServerCallArguments
    | ServerCallEnded
    | Continued
    | Finished
)
