"""ConversationOptions: how far a conversation may go. Must not know how it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from candle_vllm import checks

__all__ = ["Approve", "ConversationOptions", "PendingCall"]

_OWN = frozenset({"messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "n"})


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that waits for approval; its arguments fit the tool's schema."""

    name: str
    server: str | None
    arguments: Mapping[str, Any]


Approve = Callable[[PendingCall], bool | str | Awaitable[bool | str]]
"""Says whether a call may run: True, or False, or the reason why not, which the model is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationOptions:
    """Bounds and manners of one conversation. Bad values raise ConfigError."""

    max_turns: int = 10
    """Answers of the model at most."""
    allowed_tools: Collection[str] | None = None
    """Names of tools, as the model or as their server knows them, that it may call; None = all."""
    tool_choice: str | Sequence[str] = "auto"
    """For the first turn, or for as many as are given, one a turn; `auto` after that. `auto`, `required`, `none`, or
    the name of a tool that must be called."""
    parallel_tool_calls: bool = True
    """Whether an answer may hold several calls."""
    max_calls: int | None = None
    """Calls of all turns together; those beyond are refused, and soon all ends. None = no limit."""
    max_parallel: int = 16
    """Calls that run at once."""
    max_total_tokens: int | None = None
    """Tokens of prompts and answers over all turns, after which no further turn begins; None = no limit."""
    max_generated_tokens: int | None = None
    """Tokens of all answers together, after which no further turn begins; None = no limit."""
    timeout: float | None = None
    """Seconds of the whole conversation; what runs then is cancelled. None = no limit."""
    tool_timeout: float | None = None
    """Seconds of one call; None = its server's own limit, for Python functions 60."""
    max_repeats: int = 3
    """Times that the same call with the same result is made; after that it is refused, and soon all ends."""
    reserve_tokens: int = 256
    """Room in the context that an answer is to have; old results are shortened to make it."""
    approve: Approve | None = None
    """Asked before each call."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each turn's chat request: `model`, `temperature`, `max_tokens`, `reasoning_effort` ..."""

    def choice(self, turn: int) -> str:
        """The tool choice of a turn; turns count from 1."""
        given = (self.tool_choice,) if isinstance(self.tool_choice, str) else self.tool_choice
        return given[turn - 1] if turn <= len(given) else "auto"

    def __post_init__(self) -> None:
        checks.integer("max_turns", self.max_turns, 1)
        checks.integer("max_parallel", self.max_parallel, 1)
        checks.integer("max_repeats", self.max_repeats, 1)
        checks.integer("reserve_tokens", self.reserve_tokens, 0)
        for name in ("max_calls", "max_total_tokens", "max_generated_tokens"):
            checks.optional_integer(name, getattr(self, name), 1, none="no limit")
        for name in ("timeout", "tool_timeout"):
            if getattr(self, name) is not None:
                checks.number(name, getattr(self, name), 0.0, 1e9, open_low=True)
        if isinstance(self.allowed_tools, str):
            checks.refuse("allowed_tools", self.allowed_tools, "a list of names, or None (all)")
        for name in sorted(_OWN & self.request.keys()):
            checks.refuse("request", name, "without the fields that a conversation sets itself", place=f".{name}")
