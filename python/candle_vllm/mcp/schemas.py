"""Schemas of tools: references resolved within the document, arguments and results checked.

A remote reference is never fetched: it stands for any value. Must not know of servers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

__all__ = ["checker", "fitted", "resolved"]

_log = logging.getLogger(__name__)

_MOST_NODES = 20_000
"""Values of a resolved schema; beyond that, references stay as they are."""
_DEEPEST = 64
_WRONG_SHOWN = 3
_MOST_STEPS = 50_000
"""Keywords looked at in one check: a fraction of a second."""
_NAMING = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})


class _TooLargeError(Exception):
    """Resolving a schema, or checking by it, would take too much."""


def resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its local references replaced by what they refer to.

    A definition that contains itself cannot be written out: such references stay, with the definitions that they
    need. References to other documents become schemas that allow everything.
    """
    try:
        found = _Resolver(schema).resolve(schema, (), 0)
    except (_TooLargeError, RecursionError):
        found = _without_remote(schema)
    return dict(found) if isinstance(found, dict) else {}


class _Resolver:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0
        self._kept = False

    def resolve(self, node: Any, inside: tuple[str, ...], depth: int) -> Any:
        """The node with references replaced; `inside` are those that led here."""
        self._nodes += 1
        if self._nodes > _MOST_NODES or depth > _DEEPEST:
            raise _TooLargeError
        if isinstance(node, list):
            return [self.resolve(each, inside, depth + 1) for each in node]
        if not isinstance(node, Mapping):
            return node
        reference = node.get("$ref")
        if isinstance(reference, str):
            return self._followed(node, reference, inside, depth)
        made = {
            key: self.resolve(each, inside, depth + 1)
            for key, each in node.items()
            if not (depth == 0 and key in ("$defs", "definitions"))
        }
        if depth == 0 and self._kept:
            made |= {key: _without_remote(node[key]) for key in ("$defs", "definitions") if key in node}
        return made

    def _followed(self, node: Mapping[str, Any], reference: str, inside: tuple[str, ...], depth: int) -> Any:
        beside = {key: each for key, each in node.items() if key != "$ref"}
        if not reference.startswith("#"):
            return self.resolve(beside, inside, depth + 1)
        if reference in inside or not reference.startswith("#/"):
            # It contains itself, or is an anchor: a name that only the whole document resolves.
            self._kept = True
            return dict(node)
        target = _target(self._root, reference)
        if not isinstance(target, Mapping):
            return self.resolve(beside, inside, depth + 1)
        return self.resolve({**target, **beside}, (*inside, reference), depth + 1)


def _target(root: Mapping[str, Any], reference: str) -> Any:
    """What a JSON pointer within the document points at; None where there is nothing."""
    node: Any = root
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdecimal() and int(key[:6]) < len(node):
            node = node[int(key[:6])]
        else:
            return None
    return node


def _without_remote(node: Any, depth: int = 0) -> Any:
    """The node with references to other documents left out; what is nested too deeply allows everything."""
    if depth > _DEEPEST:
        return {}
    if isinstance(node, list):
        return [_without_remote(each, depth + 1) for each in node]
    if not isinstance(node, Mapping):
        return node
    return {
        key: _without_remote(each, depth + 1)
        for key, each in node.items()
        if key != "$ref" or (isinstance(each, str) and each.startswith("#"))
    }


def checker(schema: Mapping[str, Any]) -> Callable[[Any], str | None]:
    """A function that says what is wrong with a value; None = nothing.

    Schemas come from servers that may mean harm, so checking is bounded: patterns and uniqueness, which may take for
    ever, are left to the server, and a check of too many steps finds nothing. Nor does a schema that is itself broken.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    tame = _tamed(schema)
    kind = validator_for(tame, default=Draft202012Validator)
    try:
        kind.check_schema(tame)
    except (SchemaError, RecursionError) as error:
        _log.warning("a tool's schema is not valid, values go unchecked: %s", str(error).partition("\n")[0])
        return lambda _value: None

    # An empty registry: nothing is ever fetched.
    validator = _counting(kind)(tame, registry=Registry())

    def check(value: Any) -> str | None:
        _steps.left = _MOST_STEPS
        try:
            found = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
        except (Unresolvable, RecursionError, ValueError, ArithmeticError, _TooLargeError):
            return None
        if not found:
            return None
        told = [_told(error.absolute_path, error.message) for error in found[:_WRONG_SHOWN]]
        more = f" (and {len(found) - _WRONG_SHOWN} more)" if len(found) > _WRONG_SHOWN else ""
        return "; ".join(told) + more

    return check


_steps = threading.local()
"""`left`: keywords that the check under way in this thread may still look at."""


@cache
def _counting(kind: Any) -> Any:
    """The kind of validator, giving up when no steps are left."""
    from jsonschema import validators

    extend: Callable[..., Any] = validators.extend

    def counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
        def look(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            _steps.left -= 1
            if _steps.left < 0:
                raise _TooLargeError
            return keyword(validator, value, instance, schema)

        return look

    return extend(kind, {name: counted(keyword) for name, keyword in kind.VALIDATORS.items()})


def _tamed(node: Any, depth: int = 0) -> Any:
    """The schema without what may take for ever to check."""
    if depth > _DEEPEST * 2:
        return {}
    if isinstance(node, list):
        return [_tamed(each, depth + 1) for each in node]
    if not isinstance(node, Mapping):
        return node
    left_out = {"pattern", "patternProperties", "uniqueItems"}
    if "patternProperties" in node:
        # What else is allowed depends on the patterns.
        left_out |= {"additionalProperties", "unevaluatedProperties"}
    made = {key: _tamed(each, depth + 1) for key, each in node.items() if key not in left_out}
    for key in _NAMING & node.keys():
        if isinstance(node[key], Mapping):
            # What stands here are names, of which one may well be "pattern".
            made[key] = {name: _tamed(each, depth + 2) for name, each in node[key].items()}
    return made


def fitted(
    arguments: dict[str, Any], schema: Mapping[str, Any], check: Callable[[Any], str | None]
) -> tuple[dict[str, Any], str | None]:
    """Arguments that fit, and what is wrong where they do not.

    Models write null where they mean to leave something out: a null that does not fit, and is not required, goes.
    """
    wrong = check(arguments)
    if wrong is None:
        return arguments, None
    required = schema.get("required")
    kept = required if isinstance(required, list) else ()
    lean = {name: value for name, value in arguments.items() if value is not None or name in kept}
    if len(lean) == len(arguments) or check(lean) is not None:
        return arguments, wrong
    return lean, None


def _told(path: Any, message: str) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    short = message if len(message) <= 300 else message[:297] + "..."
    return f"{place}: {short}" if place else short
