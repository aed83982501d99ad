"""DeepSeek V3.1: calls in a section, each the name, a separator and JSON."""

from __future__ import annotations

import re

from candle_vllm.tools.sections import Sections

__all__ = ["DeepseekV31"]

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_HEADER = re.compile(r"\s*([\w.\-/:]+)\s*(?:<｜tool▁sep｜>)?\s*")


class DeepseekV31(Sections):
    """JSON behind a header."""

    names = ("deepseek_v31",)
    signs = ((_BEGIN, _SEP),)
    marks = (_BEGIN, _END, _CALL, _CALL_END, _SEP)
    opening, finish, call_begin, call_end = _BEGIN, _END, _CALL, _CALL_END

    def header(self, text: str) -> tuple[str, str | None] | None:
        """The name and the id."""
        found = _HEADER.fullmatch(text)
        return (found[1], None) if found else None

    def head(self, name: str, index: int) -> str:
        """What stands before the arguments."""
        return f"{name}{_SEP}"
