"""GLM-4.5 and 4.6: `<tool_call>name`, then `<arg_key>k</arg_key>` and `<arg_value>v</arg_value>`, a line each."""

from __future__ import annotations

from candle_vllm.tools.xml_calls import XmlStyle
from candle_vllm.tools.xml_format import XmlFormat

__all__ = ["Glm45"]


class Glm45(XmlFormat):
    """A name, then keys and values as tags."""

    names = ("glm45", "glm4_moe")
    signs = (("<arg_key>",),)
    marks = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    blocks = (("<tool_call>", "</tool_call>"),)
    separator = "\n"
    style = XmlStyle(
        name_end="\n",
        parameter="<arg_key>",
        label_form="{name}</arg_key>\n",
        label_end="</arg_key>",
        parameter_end="<arg_value>",
        value_end="</arg_value>",
        call_end="</tool_call>",
    )
