"""Qwen3-Coder: `<tool_call><function=name><parameter=p>text</parameter></function></tool_call>`.

Models sometimes leave the outer tag out.
"""

from __future__ import annotations

from candle_vllm.tools.xml_calls import XmlStyle
from candle_vllm.tools.xml_format import XmlFormat

__all__ = ["Qwen3Coder"]


class Qwen3Coder(XmlFormat):
    """Functions and parameters as tags."""

    names = ("qwen3_coder", "qwen3_xml", "qwen_coder")
    signs = (("<tool_call>", "<function=", "<parameter="),)
    marks = ("<tool_call>", "</tool_call>")
    blocks = (("<tool_call>", "</tool_call>"),)
    call_begin = "<function="
    separator = "\n"
    style = XmlStyle(
        name_end=">",
        parameter="<parameter=",
        parameter_end=">",
        value_end="</parameter>",
        call_end="</function>",
        stop=("</tool_call>",),
        framed=True,
    )
