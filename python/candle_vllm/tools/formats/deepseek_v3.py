"""DeepSeek V3 and R1: calls in a section, each `function`, a separator, the name and fenced JSON."""

from __future__ import annotations

import re

from candle_vllm.tools.sections import Sections

__all__ = ["DeepseekV3"]

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_HEADER = re.compile(r"\s*(?:\w+<｜tool▁sep｜>)?\s*([\w.\-/:]+)\s*(?:```(?:json)?\s*)?")


class DeepseekV3(Sections):
    """Fenced JSON behind a header."""

    names = ("deepseek_v3", "deepseek", "deepseek_r1")
    signs = ((_BEGIN, "```json"),)
    marks = (_BEGIN, _END, _CALL, _CALL_END, _SEP)
    opening, finish, call_begin, call_end = _BEGIN, _END, _CALL, _CALL_END
    fence = "```"
    between = "\n"
    tail = "\n```"

    def header(self, text: str) -> tuple[str, str | None] | None:
        """The name and the id."""
        found = _HEADER.fullmatch(text)
        return (found[1], None) if found else None

    def head(self, name: str, index: int) -> str:
        """What stands before the arguments."""
        return f"function{_SEP}{name}\n```json\n"
