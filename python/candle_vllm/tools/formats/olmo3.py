"""OLMo 3: Python calls, one a line, between `<function_calls>` tags."""

from __future__ import annotations

from collections.abc import Sequence

from candle_vllm.tools.events import ToolCall
from candle_vllm.tools.grammar import Lark
from candle_vllm.tools.python_list import PythonList, write_call
from candle_vllm.tools.schemas import Tool

__all__ = ["Olmo3"]


class Olmo3(PythonList):
    """Python calls between tags, a call a line."""

    names = ("olmo3",)
    signs = (("<function_calls>", "</function_calls>"),)
    tags = (("<function_calls>", "</function_calls>"),)
    marks = ("<function_calls>", "</function_calls>")
    opening = "<function_calls>"

    def write(self, calls: Sequence[ToolCall]) -> str:
        """A call a line."""
        return f"<function_calls>{chr(10).join(map(write_call, calls))}</function_calls>"

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """A call a line."""
        call = self.call(lark, tools)
        more = f' ("\\n" {call})*' if parallel else ""
        return f'("\\n")? {call}{more} ("\\n")? {lark.literal("</function_calls>")}'
