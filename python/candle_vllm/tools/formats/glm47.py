"""GLM-4.7: as GLM-4.5 writes calls, without newlines between the parts."""

from __future__ import annotations

from candle_vllm.tools.xml_calls import XmlStyle
from candle_vllm.tools.xml_format import XmlFormat

__all__ = ["Glm47"]


class Glm47(XmlFormat):
    """A name, then keys and values as tags."""

    names = ("glm47", "glm47_moe")
    signs = (("<tool_call>{function-name}<arg_key>",),)
    marks = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    blocks = (("<tool_call>", "</tool_call>"),)
    style = XmlStyle(
        name_end="",
        parameter="<arg_key>",
        label_form="{name}</arg_key>",
        label_end="</arg_key>",
        parameter_end="<arg_value>",
        value_end="</arg_value>",
        call_end="</tool_call>",
        line="",
    )
