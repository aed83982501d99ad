"""Schemas of tools' arguments: references resolved within the document, arguments checked before a call.

A remote reference is never fetched: it stands for any value. Must not know of servers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["checker", "fitted", "resolved"]

_log = logging.getLogger(__name__)

_MOST_NODES = 20_000
"""Values of a resolved schema; beyond that, references stay as they are."""
_DEEPEST = 64
_WRONG_SHOWN = 3


class _TooLargeError(Exception):
    """Resolving a schema would blow it up."""


def resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with its local references replaced by what they refer to.

    A definition that contains itself cannot be written out: such references stay, with the definitions that they
    need. References to other documents become schemas that allow everything.
    """
    try:
        found = _Resolver(schema).resolve(schema, (), 0)
    except (_TooLargeError, RecursionError):
        found = _without_remote(schema)
    result = dict(found) if isinstance(found, dict) else {}
    result.setdefault("type", "object")
    return result


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
    """A function that says what is wrong with arguments; None = nothing.

    A schema that is itself broken checks nothing: the server that wrote it is left to check its calls.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except (SchemaError, RecursionError) as error:
        _log.warning("a tool's schema is not valid, its arguments go unchecked: %s", str(error).partition("\n")[0])
        return lambda _arguments: None
    # An empty registry: nothing is ever fetched.
    validator = kind(schema, registry=Registry())

    def check(arguments: Any) -> str | None:
        try:
            found = sorted(validator.iter_errors(arguments), key=lambda error: list(map(str, error.absolute_path)))
        except (Unresolvable, RecursionError, ValueError, ArithmeticError):
            return None
        except Exception as error:
            # Patterns are written for other languages' regular expressions; what Python cannot read checks nothing.
            if type(error).__module__ not in ("re", "re._constants", "sre_constants"):
                raise
            return None
        if not found:
            return None
        told = [_told(error.absolute_path, error.message) for error in found[:_WRONG_SHOWN]]
        more = f" (and {len(found) - _WRONG_SHOWN} more)" if len(found) > _WRONG_SHOWN else ""
        return "; ".join(told) + more

    return check


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
