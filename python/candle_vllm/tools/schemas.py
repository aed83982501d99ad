"""The tools of a request as parsers and grammars need them: names, parameters and the JSON types that these may have.

Takes OpenAI's form (`{"type": "function", "function": {"name", "parameters"}}`, or the function alone) and tolerates
any parameters: a schema that is missing, null, a list or recursive says nothing instead of failing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ANY", "Tool", "Tools", "kinds_of", "resolve", "text_bounds"]

ANY: frozenset[str] = frozenset()
"""The types of a value of which no schema says anything."""

_TEXT_BOUNDS = frozenset(("format", "pattern", "minLength", "maxLength"))
_DEPTH = 16  # references and alternatives followed; deeper schemas say nothing


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that the model may call. `parameters` is a JSON schema, {} when it says nothing."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False

    @property
    def properties(self) -> Mapping[str, Any]:
        """Parameter names and their schemas."""
        found = self.parameters.get("properties")
        return found if isinstance(found, Mapping) else {}

    @property
    def required(self) -> frozenset[str]:
        """The names of the parameters that each call has."""
        found = self.parameters.get("required")
        return frozenset(name for name in found if isinstance(name, str)) if isinstance(found, list) else frozenset()

    @property
    def open(self) -> bool:
        """Whether parameters beside the listed ones are allowed."""
        if not self.properties:
            return self.parameters.get("additionalProperties") is not False
        return self.parameters.get("additionalProperties", False) is not False

    def schema_of(self, parameter: str) -> Any:
        """A parameter's schema with the definitions that it may refer to; None when there is none."""
        schema = self.properties.get(parameter)
        if not isinstance(schema, Mapping):
            return schema
        definitions = {key: self.parameters[key] for key in ("$defs", "definitions") if key in self.parameters}
        return {**definitions, **schema}


class Tools:
    """The tools of one request by name; an unknown name has no schema."""

    def __init__(self, tools: Iterable[Mapping[str, Any] | Tool] | None = None) -> None:
        parsed = [tool if isinstance(tool, Tool) else _tool(tool) for tool in tools or ()]
        self._tools = {tool.name: tool for tool in parsed if tool is not None}

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __len__(self) -> int:
        return len(self._tools)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def get(self, name: str) -> Tool | None:
        """The tool of this name."""
        return self._tools.get(name)

    def kinds(self, name: str, parameter: str) -> frozenset[str]:
        """The JSON types that a parameter may have; `ANY` when no schema says."""
        tool = self._tools.get(name)
        return ANY if tool is None else kinds_of(tool.properties.get(parameter), tool.parameters)

    def parameter_at(self, name: str, position: int) -> str | None:
        """The name of the parameter at a position, for calls that give values without names."""
        tool = self._tools.get(name)
        names: Sequence[str] = list(tool.properties) if tool is not None else []
        return names[position] if position < len(names) else None


def _tool(form: Mapping[str, Any]) -> Tool | None:
    function = form.get("function", form)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    parameters = function.get("parameters")
    return Tool(
        function["name"], parameters if isinstance(parameters, Mapping) else {}, bool(function.get("strict", False))
    )


_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", list: "array"}


def kinds_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows, following local references; `ANY` when it does not say."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return ANY
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset((kind,))
    if isinstance(kind, list):
        return frozenset(name for name in kind if isinstance(name, str))
    if isinstance(schema.get("enum"), list):
        return frozenset(_NAMES.get(type(value), "object") for value in schema["enum"])
    if "const" in schema:
        return frozenset((_NAMES.get(type(schema["const"]), "object"),))
    if isinstance(schema.get("$ref"), str):
        return kinds_of(resolve(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(key)
        if isinstance(branches, list):
            found = [kinds_of(branch, root, depth + 1) for branch in branches]
            known = [kinds for kinds in found if kinds]
            if known and (key == "allOf" or len(known) == len(found)):
                return frozenset().union(*known)
            return ANY
    return frozenset(("object",)) if isinstance(schema.get("properties"), Mapping) else ANY


def text_bounds(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The keywords by which a schema bounds texts, in its branches and where its references lead as well."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return frozenset()
    found = _TEXT_BOUNDS & set(schema)
    if isinstance(schema.get("$ref"), str):
        found |= text_bounds(resolve(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(key)
        for branch in branches if isinstance(branches, list) else ():
            found |= text_bounds(branch, root, depth + 1)
    return found


def resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference within a schema points at; None for one that leads nowhere or elsewhere."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        if not isinstance(found, Mapping):
            return None
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found
