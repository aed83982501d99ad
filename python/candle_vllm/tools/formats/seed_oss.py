"""Seed-OSS: as Qwen3-Coder writes calls, between `<seed:tool_call>` tags."""

from __future__ import annotations

from candle_vllm.tools.xml_calls import XmlStyle
from candle_vllm.tools.xml_format import XmlFormat

__all__ = ["SeedOss"]


class SeedOss(XmlFormat):
    """Functions and parameters as tags."""

    names = ("seed_oss",)
    signs = (("<seed:tool_call>",),)
    marks = ("<seed:tool_call>", "</seed:tool_call>")
    blocks = (("<seed:tool_call>", "</seed:tool_call>"),)
    call_begin = "<function="
    separator = "\n"
    style = XmlStyle(
        name_end=">",
        parameter="<parameter=",
        parameter_end=">",
        value_end="</parameter>",
        call_end="</function>",
        stop=("</seed:tool_call>",),
    )
