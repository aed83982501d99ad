"""Requests whose unknown fields are left aside with a warning, where they are not to be refused.

Must not know of endpoints or HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

__all__ = ["read"]

_MOST = 100
"""Unknown fields of one request; more of them are no client's that means well."""

ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


def read(kind: type[ModelT], given: bytes | Mapping[str, Any], warnings: list[str] | None) -> ModelT:
    """`given`, a JSON text or a dictionary, as `kind`. Raises pydantic's ValidationError for whatever is wrong with it.

    Where `warnings` is a list, fields that are not known are left out and named there; with None they are refused.
    """
    try:
        return _validated(kind, given)
    except pydantic.ValidationError as error:
        if warnings is None or error.error_count() > _MOST:
            raise
        places = [each["loc"] for each in error.errors(include_url=False, include_input=False) if _unknown(each)]
        if not places:
            raise
        plain = json.loads(given) if isinstance(given, bytes) else given
    for place in places:
        plain = _without(plain, place)
    typed = _validated(kind, json.dumps(plain).encode() if isinstance(given, bytes) else plain)
    warnings += [f"Unrecognized request argument ignored: {_shown(place)}" for place in places]
    return typed


def _validated(kind: type[ModelT], given: bytes | Mapping[str, Any]) -> ModelT:
    return kind.model_validate_json(given) if isinstance(given, bytes) else kind.model_validate(given)


def _unknown(problem: Any) -> bool:
    return bool(problem["type"] == "extra_forbidden")


def _without(value: Any, place: tuple[int | str, ...]) -> Any:
    """A copy without the member at this place. A place that leads through a choice of forms is not there: it stays."""
    first, *rest = place
    if isinstance(value, Mapping) and first in value:
        if not rest:
            return {key: each for key, each in value.items() if key != first}
        return {**value, first: _without(value[first], tuple(rest))}
    if isinstance(value, list | tuple) and isinstance(first, int) and first < len(value) and rest:
        return [*value[:first], _without(value[first], tuple(rest)), *value[first + 1 :]]
    return value


def _shown(place: tuple[int | str, ...]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text[:200]
