"""DeepSeek V3.2: DSML, tags whose names bear `｜DSML｜`, in a block of calls; values say if they are strings."""

from __future__ import annotations

from candle_vllm.tools.xml_calls import XmlStyle
from candle_vllm.tools.xml_format import XmlFormat

__all__ = ["DeepseekV32"]


class DeepseekV32(XmlFormat):
    """Invocations and typed parameters as tags. The block of DeepSeek V4, `tool_calls`, is read as well."""

    names = ("deepseek_v32", "deepseek_v4")
    signs = (("｜DSML｜",),)
    marks = ("｜DSML｜",)
    blocks = (
        ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
        ("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"),
    )
    call_begin = '<｜DSML｜invoke name="'
    many = True
    repeats = False
    style = XmlStyle(
        name_end='">',
        parameter='<｜DSML｜parameter name="',
        label_form='{name}" string="{string}',
        label_end='"',
        parameter_end='">',
        value_end="</｜DSML｜parameter>",
        call_end="</｜DSML｜invoke>",
        stop=("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
    )
