"""Grammars of whole calls in the styles that several formats share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .grammar import Lark
from .schemas import Tool, kinds_of
from .xml_calls import XmlStyle

__all__ = ["braced_arguments", "python_call", "xml_call_body"]

_ANY_NAME = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"
_DEEPEST = 8  # schemas nested deeper than this take any value


def python_call(lark: Lark, tool: Tool) -> str:
    """`name(key=value, ...)`."""
    arguments = _named(lark, tool, "=", ", ", lambda schema: _python_value(lark, schema, tool))
    return lark.rule(" ".join(filter(None, (lark.literal(f"{tool.name}("), arguments, lark.literal(")")))))


def _python_value(lark: Lark, schema: Any, tool: Tool) -> str:
    if kinds_of(schema, tool.parameters) == {"boolean"} and not {"enum", "const"} & set(schema):
        return '("True" | "False")'
    return lark.json(schema, strict=tool.strict)


def _named(lark: Lark, tool: Tool, joint: str, separator: str, value: Any) -> str:
    """A tool's parameters as `name joint value`, the required ones first."""
    items = {name: lark.rule(f"{lark.literal(name + joint)} {value(tool.schema_of(name))}") for name in tool.properties}
    required = [item for name, item in items.items() if name in tool.required]
    optional = [item for name, item in items.items() if name not in tool.required]
    if not items and tool.open and tool.parameters:
        any_item = lark.rule(f"{_ANY_NAME} {lark.literal(joint)} {value({})}")
        return f"({any_item} ({lark.literal(separator)} {any_item})*)?"
    return lark.sequence(required, optional, separator)


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

    items = {name: lark.rule(item(name)) for name in tool.properties}
    if not items and tool.open and tool.parameters:
        parameters = f"({_any_parameter(lark, style, frame, end)})*"
    else:
        required = [rule for name, rule in items.items() if name in tool.required]
        optional = [rule for name, rule in items.items() if name not in tool.required]
        parameters = lark.sequence(required, optional, "")
    head = lark.literal(tool.name + style.name_end + (line if style.name_end != line else ""))
    return lark.rule(" ".join(filter(None, (head, parameters, lark.literal(style.call_end)))))


def _any_parameter(lark: Lark, style: XmlStyle, frame: str, end: str) -> str:
    before, after = style.label("\0").split("\0")
    return lark.rule(f"{lark.literal(before)} {_ANY_NAME} {lark.literal(after + frame)} {lark.until(end)}")


def braced_arguments(lark: Lark, tool: Tool, quote: str) -> str:
    """`{key:value,...}` as Gemma writes it."""
    return _Braced(lark, tool, quote).object(tool.parameters, 0)


class _Braced:
    """Grammars of values in Gemma's notation."""

    def __init__(self, lark: Lark, tool: Tool, quote: str) -> None:
        self._lark = lark
        self._tool = tool
        self._quote = quote

    def object(self, schema: Mapping[str, Any], depth: int) -> str:
        properties = schema.get("properties")
        items = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required") if isinstance(schema.get("required"), list) else []
        rules = {
            name: self._lark.rule(f"{self._lark.literal(name + ':')} {self.value(value, depth + 1)}")
            for name, value in items.items()
        }
        if not rules and schema and schema.get("additionalProperties") is not False:
            item = self._lark.rule(f'{_ANY_NAME} ":" {self.value({}, depth + 1)}')
            inside = f'({item} ("," {item})*)?'
        else:
            inside = self._lark.sequence(
                [rule for name, rule in rules.items() if name in (required or ())],
                [rule for name, rule in rules.items() if name not in (required or ())],
                ",",
            )
        return self._lark.rule(" ".join(filter(None, ('"{"', inside, '"}"'))))

    def _string(self) -> str:
        return self._lark.rule(f"{self._lark.literal(self._quote)} {self._lark.until(self._quote)}")

    def _quoted(self, value: Any) -> str:
        if isinstance(value, str):
            return self._lark.literal(f"{self._quote}{value}{self._quote}")
        return self._lark.json({"const": value}, strict=self._tool.strict)

    def value(self, schema: Any, depth: int) -> str:
        kinds = kinds_of(schema, self._tool.parameters)
        if not isinstance(schema, Mapping) or depth > _DEEPEST or not kinds:
            kinds, schema = frozenset(("string", "number", "boolean", "null")), {}
        chosen = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(chosen, list) and chosen:
            return self._lark.either(map(self._quoted, chosen))
        return self._lark.either(self._of_kind(kind, schema, depth) for kind in sorted(kinds))

    def _of_kind(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        if kind == "string":
            self._lark.refuse_bounds(schema, self._tool)
            return self._string()
        if kind == "array":
            item = self.value(schema.get("items", {}), depth + 1)
            return self._lark.rule(f'"[" ({item} ("," {item})*)? "]"')
        if kind == "object":
            return self.object(schema, depth)
        return self._lark.json(
            {**schema, "type": kind} if "anyOf" not in schema else {"type": kind}, strict=self._tool.strict
        )
