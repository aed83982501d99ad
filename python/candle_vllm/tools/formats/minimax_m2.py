"""MiniMax M2: `<invoke name="f">` with `<parameter name="p">` in a `<minimax:tool_call>` block of several calls."""

from __future__ import annotations

from candle_vllm.tools.xml_calls import XmlStyle
from candle_vllm.tools.xml_format import XmlFormat

__all__ = ["MinimaxM2"]


class MinimaxM2(XmlFormat):
    """Invocations and parameters as tags."""

    names = ("minimax_m2",)
    signs = (("<minimax:tool_call>",),)
    marks = ("<minimax:tool_call>", "</minimax:tool_call>")
    blocks = (("<minimax:tool_call>", "</minimax:tool_call>"),)
    call_begin = '<invoke name="'
    many = True
    repeats = False
    style = XmlStyle(
        name_end='">',
        parameter='<parameter name="',
        parameter_end='">',
        value_end="</parameter>",
        call_end="</invoke>",
        stop=("</minimax:tool_call>",),
    )
