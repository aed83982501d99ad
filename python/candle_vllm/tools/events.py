"""What a tool-call parser tells: text, and calls as they are written. Plain data."""

from dataclasses import dataclass
from typing import TypeAlias

from candle_vllm.pieces import Text

__all__ = ["CallArguments", "CallEnded", "CallStarted", "Event", "Text", "ToolCall"]


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call begins; `index` counts the reply's calls from 0. The name is told once, whole, whether known or not."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of JSON text; the pieces of one call add up to its arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is complete. One that the reply's end cut off gets none."""

    index: int


Event: TypeAlias = Text | CallStarted | CallArguments | CallEnded


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One whole call; `arguments` is JSON text as OpenAI's API has it."""

    id: str
    name: str
    arguments: str
