"""No format: the reply is text, whatever it looks like."""

from __future__ import annotations

from collections.abc import Sequence

from candle_vllm.errors import ConfigError
from candle_vllm.pieces import Parse, Reader
from candle_vllm.tools.calls import Calls
from candle_vllm.tools.events import ToolCall
from candle_vllm.tools.format import Format
from candle_vllm.tools.grammar import Lark
from candle_vllm.tools.schemas import Tool

__all__ = ["Passthrough"]

_REFUSAL = "the format 'passthrough' has no tool calls; choose another one with --enforce-parser"


class Passthrough(Format):
    """Reads no calls; refuses to write or enforce any."""

    names = ("passthrough",)

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """All text."""
        yield from reader.rest_to(calls.text)

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Raises :class:`ConfigError`."""
        raise ConfigError(_REFUSAL)

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """Raises :class:`ConfigError`."""
        raise ConfigError(_REFUSAL)
