"""Grammars of values in notations that are not JSON: Python's and Gemma's. A schema is walked once, references too."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from .grammar import Lark, choices
from .schemas import Tool, resolve, text_bounds

__all__ = ["ANY_NAME", "BracedValues", "PythonValues"]

ANY_NAME = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"
_KINDS = ("string", "number", "boolean", "null")
_QUOTED = r"""/'([^'\\\n]|\\[nrt'"\\])*'/"""  # a string in single quotes
_ESCAPED = frozenset("'\"\\\n\r\t")  # what the two quotes write differently
_NOT_WALKED = frozenset(
    [
        "allOf",
        "not",
        "if",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "dependentRequired",
        "dependentSchemas",
        "prefixItems",
        "contains",
        "uniqueItems",
        "unevaluatedProperties",
        "unevaluatedItems",
    ]
)
_MOST_ITEMS = 1000  # bounds beyond this are not worth their rules


class _Values(ABC):
    """Walks a tool's schema; a notation says how scalars, keys and separators are written."""

    separator = ", "
    joint = ": "

    def __init__(self, lark: Lark, tool: Tool) -> None:
        self.lark = lark
        self.tool = tool

    def named(self, joint: str, separator: str) -> str:
        """A call's arguments: names bare, values in the notation, in the schema's order."""
        parameters = self.tool.parameters
        if not self.tool.properties and parameters and self.tool.open:
            return self._any_members(ANY_NAME, joint, separator, parameters.get("additionalProperties"))
        return self.lark.sequence(
            [
                (self.lark.rule(f"{self.lark.literal(name + joint)} {self.value(schema)}"), name in self.tool.required)
                for name, schema in self.tool.properties.items()
            ],
            separator,
        )

    def value(self, schema: Any) -> str:
        """Any value that the schema allows."""
        if not isinstance(schema, Mapping) or not schema:
            return self._anything()
        self.lark.refuse(_NOT_WALKED & set(schema), self.tool)
        values = choices(schema)
        if values is not None:
            return self.lark.either(map(self.literal, values))
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self.lark.recursive(
                f"{self.tool.name} {reference}", lambda: self.value(resolve(reference, self.tool.parameters))
            )
        for key in ("anyOf", "oneOf"):
            branches = schema.get(key)
            if isinstance(branches, list) and branches:
                return self.lark.either([self.value(branch) for branch in branches])
        kinds = schema.get("type")
        if isinstance(kinds, str):
            return self._of_kind(kinds, schema)
        if isinstance(kinds, list) and kinds:
            return self.lark.either([self._of_kind(kind, schema) for kind in kinds])
        return self._of_kind("object", schema) if "properties" in schema else self._anything()

    def _of_kind(self, kind: Any, schema: Mapping[str, Any]) -> str:
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema)
        return self.scalar(kind, schema) if kind in (*_KINDS, "integer") else self._anything()

    def _array(self, schema: Mapping[str, Any]) -> str:
        item = self.value(schema.get("items"))
        least, most = (_bound(schema, key) for key in ("minItems", "maxItems"))
        if most == 0:
            return '"[]"'
        more = (
            "*" if not least and most is None else f"{{{max((least or 0) - 1, 0)},{'' if most is None else most - 1}}}"
        )
        inside = f"{item} ({self.lark.literal(self.separator)} {item}){more}"
        return self.lark.rule(f'"[" {inside} "]"' if least else f'"[" ({inside})? "]"')

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties = schema.get("properties")
        required = schema.get("required")
        needed = required if isinstance(required, list) else []
        if not isinstance(properties, Mapping) or not properties:
            if schema.get("additionalProperties") is False:
                return '"{}"'
            inside = self._any_members(self.any_key(), self.joint, self.separator, schema.get("additionalProperties"))
        else:
            inside = self.lark.sequence(
                [
                    (self.lark.rule(f"{self.key(str(name))} {self.value(value)}"), name in needed)
                    for name, value in properties.items()
                ],
                self.separator,
            )
        return self.lark.rule(f'"{{" {inside} "}}"')

    def _any_members(self, key: str, joint: str, separator: str, schema: Any) -> str:
        member = self.lark.rule(f"{key} {self.lark.literal(joint)} {self.value(schema)}")
        return f"({member} ({self.lark.literal(separator)} {member})*)?"

    def _anything(self) -> str:
        return self.lark.either([self.scalar(kind, {}) for kind in _KINDS])

    @abstractmethod
    def scalar(self, kind: str, schema: Mapping[str, Any]) -> str:
        """A string, number, boolean or null."""

    @abstractmethod
    def literal(self, value: Any) -> str:
        """One value of an enumeration."""

    @abstractmethod
    def key(self, name: str) -> str:
        """An object's key and what joins it to its value."""

    @abstractmethod
    def any_key(self) -> str:
        """Any key."""


def _bound(schema: Mapping[str, Any], key: str) -> int | None:
    value = schema.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_ITEMS else None


class PythonValues(_Values):
    """Python literals, with JSON's words as well, and strings in either quotes: models' templates write both."""

    def scalar(self, kind: str, schema: Mapping[str, Any]) -> str:
        """As Python or JSON writes it."""
        if kind == "boolean":
            return '("True" | "False" | "true" | "false")'
        if kind == "null":
            return '("None" | "null")'
        value = self.lark.json({**schema, "type": kind}, strict=self.tool.strict)
        return f"({value} | {_QUOTED})" if kind == "string" and not text_bounds(schema, {}) else value

    def literal(self, value: Any) -> str:
        """As Python or JSON writes it; a list or an object as JSON."""
        text = json.dumps(value, ensure_ascii=False)
        if value is None or isinstance(value, bool):
            return f"({self.lark.literal(str(value))} | {self.lark.literal(text)})"
        if isinstance(value, str) and not _ESCAPED & set(value):
            return f"({self.lark.literal(text)} | {self.lark.literal(repr(value))})"
        return self.lark.literal(text)

    def key(self, name: str) -> str:
        """A string and a colon."""
        return self.lark.literal(f"{json.dumps(name, ensure_ascii=False)}{self.joint}")

    def any_key(self) -> str:
        """A name in quotes."""
        return f'"\\"" {ANY_NAME} "\\""'


class BracedValues(_Values):
    """Gemma's notation: strings between marks, keys bare, no white space."""

    separator = ","
    joint = ":"

    def __init__(self, lark: Lark, tool: Tool, quote: str) -> None:
        super().__init__(lark, tool)
        self._quote = quote

    def scalar(self, kind: str, schema: Mapping[str, Any]) -> str:
        """As Gemma writes it."""
        if kind != "string":
            return self.lark.json({**schema, "type": kind}, strict=self.tool.strict)
        self.lark.refuse(text_bounds(schema, {}), self.tool)
        return self.lark.rule(f"{self.lark.literal(self._quote)} {self.lark.until(self._quote)}")

    def literal(self, value: Any) -> str:
        """As Gemma writes it; a list or an object as JSON."""
        quote = self._quote if isinstance(value, str) else ""
        return self.lark.literal(f"{quote}{value if quote else json.dumps(value, ensure_ascii=False)}{quote}")

    def key(self, name: str) -> str:
        """A bare name and a colon."""
        return self.lark.literal(f"{name}{self.joint}")

    def any_key(self) -> str:
        """A bare name."""
        return ANY_NAME
