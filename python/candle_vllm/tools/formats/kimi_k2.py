"""Kimi K2: calls in a section, each `functions.name:index`, which is also the call's id, a mark and JSON."""

from __future__ import annotations

import re

from candle_vllm.tools.grammar import Lark
from candle_vllm.tools.sections import Sections

__all__ = ["KimiK2"]

_BEGIN, _END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _CALL_END, _ARGUMENTS = "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"
_HEADER = re.compile(r"\s*((?:functions\.)?([\w.\-/]+?)(?::\d+)?)\s*(?:<\|tool_call_argument_begin\|>)?\s*")


class KimiK2(Sections):
    """JSON behind an id; the model's ids are kept, since its template shows them to it again."""

    names = ("kimi_k2",)
    signs = ((_BEGIN,), ("<|im_system|>tool_declare<|im_middle|>",))
    marks = (_BEGIN, _END, _CALL, _CALL_END, _ARGUMENTS)
    opening, finish, call_begin, call_end = _BEGIN, _END, _CALL, _CALL_END

    def header(self, text: str) -> tuple[str, str | None] | None:
        """The name and the id."""
        found = _HEADER.fullmatch(text)
        return (found[2], found[1] if ":" in found[1] else None) if found else None

    def head_rule(self, lark: Lark, name: str) -> str:
        """The header with any index."""
        return f"{lark.literal(f'{_CALL}functions.{name}:')} /[0-9]{{1,3}}/ {lark.literal(_ARGUMENTS)}"

    def head(self, name: str, index: int) -> str:
        """What stands before the arguments."""
        return f"functions.{name}:{index}{_ARGUMENTS}"
