"""Grammars of whole calls in the styles that several formats share."""

from __future__ import annotations

from .grammar import Lark
from .schemas import Tool, kinds_of
from .value_grammar import ANY_NAME, BracedValues, PythonValues
from .xml_calls import XmlStyle

__all__ = ["braced_call_body", "python_call", "xml_call_body"]


def python_call(lark: Lark, tool: Tool) -> str:
    """`name(key=value, ...)`."""
    return lark.rule(
        " ".join(filter(None, (lark.literal(f"{tool.name}("), PythonValues(lark, tool).named("=", ", "), '")"')))
    )


def xml_call_body(lark: Lark, tool: Tool, style: XmlStyle) -> str:
    """A call from its name to its end tag."""
    line = style.line
    frame = "\n" if style.framed else ""
    end = frame + style.value_end + line

    def item(name: str) -> str:
        schema = tool.schema_of(name)
        if not style.typed or "string" in kinds_of(schema, tool.parameters):
            return f"{lark.literal(style.label(name) + frame)} {lark.raw(schema, tool, end)}"
        value = lark.json(schema, strict=tool.strict)
        return f"{lark.literal(style.label(name, string=False) + frame)} {value} {lark.literal(end)}"

    items = [(lark.rule(item(name)), name in tool.required) for name in tool.properties]
    if not items and tool.open and tool.parameters:
        parameters = f"({_any_parameter(lark, style, frame, end)})*"
    else:
        parameters = lark.sequence(items, "")
    head = lark.literal(tool.name + style.name_end + (line if style.name_end != line else ""))
    return lark.rule(" ".join(filter(None, (head, parameters, lark.literal(style.call_end)))))


def _any_parameter(lark: Lark, style: XmlStyle, frame: str, end: str) -> str:
    before, after = style.label("\0").split("\0")
    return lark.rule(f"{lark.literal(before)} {ANY_NAME} {lark.literal(after + frame)} {lark.until(end)}")


def braced_call_body(lark: Lark, tool: Tool, quote: str) -> str:
    """`name{key:value,...}` as Gemma writes it."""
    inside = BracedValues(lark, tool, quote).named(":", ",")
    return lark.rule(" ".join(filter(None, (lark.literal(f"{tool.name}{{"), inside, '"}"'))))
