"""What a conversation tells while it runs, and what it comes to. Holds no behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from candle_vllm.mcp.results import ToolResult

__all__ = [
    "ConversationEvent",
    "ConversationFinished",
    "ConversationResult",
    "EndReason",
    "ExecutedCall",
    "ToolCalled",
    "ToolReturned",
    "TurnEnded",
    "TurnReasoning",
    "TurnStarted",
    "TurnText",
    "TurnUsage",
]

EndReason = Literal[
    "stop", "length", "tool_calls", "max_turns", "token_budget", "time_budget", "loop", "context", "error"
]
"""Why a conversation ended: `stop` and `length` are the model's own ends, as those of any answer; `tool_calls`: it
called a tool that whoever asked runs himself; `loop`: it made the same calls again and again; `context`: nothing was
left to shorten; `error`: the model failed after the first turn."""


@dataclass(frozen=True, slots=True)
class TurnUsage:
    """Tokens of one turn."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the prompt that were in the prefix cache."""
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ExecutedCall:
    """One call of a tool and what came of it, calls that were refused included."""

    turn: int
    id: str
    name: str
    """As the model knows the tool."""
    server: str | None
    """The MCP server; None for a Python function, or a tool that there is not."""
    arguments: str
    """JSON text, as the model wrote it."""
    result: ToolResult
    seconds: float


@dataclass(frozen=True, slots=True)
class ConversationResult:
    """Where a conversation ended, complete or not."""

    final_message: str
    """The text of the last answer; empty where the model did not come to one."""
    tool_calls_executed: Sequence[ExecutedCall]
    """All calls, in the order in which the model made them."""
    turns_taken: int
    """Answers of the model."""
    messages: Sequence[Mapping[str, Any]]
    """The messages given and all that followed, results in full: fit to be given to another conversation."""
    finish_reason: EndReason
    usage: TurnUsage = TurnUsage()
    """Of all turns together."""
    error: Exception | None = None
    """What went wrong where the reason is `error` or `context`."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The model is asked; turns count from 1."""

    turn: int


@dataclass(frozen=True, slots=True)
class TurnText:
    """A piece of the turn's text."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class TurnReasoning:
    """A piece of what the model thinks before it answers or calls."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The model has called a tool; the call begins to run."""

    turn: int
    id: str
    name: str
    arguments: str
    """JSON text."""


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """A call has ended. Calls of a turn are told in the order in which they were made."""

    turn: int
    call: ExecutedCall


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The model's answer is complete, and its calls have run."""

    turn: int
    reason: Literal["stop", "length", "tool_calls"]
    usage: TurnUsage


@dataclass(frozen=True, slots=True)
class ConversationFinished:
    """The end; nothing follows."""

    result: ConversationResult


ConversationEvent = (
    TurnStarted | TurnText | TurnReasoning | ToolCalled | ToolReturned | TurnEnded | ConversationFinished
)
