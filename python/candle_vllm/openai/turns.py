"""Long replies as JSON, written in pieces between which the event loop gets its turn.

Pydantic writes a model in one call that lets nobody else run, 10 ms for each megabyte. Where a list is long, its
slices are written instead, and joined to the very same text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from candle_vllm.openai.endpoint import serialised

__all__ = ["serialised_in_turns"]

_AT_ONCE = 64
"""Elements of a list that are written in one go: 2 ms where each tells 20 candidates with their log-probabilities."""
_TURN = 128 * 1024
"""Characters after which others get a turn."""


async def serialised_in_turns(reply: BaseModel) -> str:
    """The text that `serialised` gives, without holding the event loop for long."""
    if not _long(reply):
        return serialised(reply)
    pieces, written = [], 0
    for piece in _pieces(reply):
        pieces.append(piece)
        written += len(piece)
        if written >= _TURN:
            written = 0
            await asyncio.sleep(0)
    return "".join(pieces)


def _long(value: Any) -> bool:
    """Whether there is a long list anywhere in a model."""
    if isinstance(value, list | tuple):
        return len(value) > _AT_ONCE or any(map(_long, value))
    return isinstance(value, BaseModel) and any(map(_long, vars(value).values()))


def _pieces(model: BaseModel) -> Iterator[str]:
    opening = "{"
    for name in (*type(model).model_fields, *(model.model_extra or ())):
        if name not in model.model_fields_set:
            continue
        value = getattr(model, name)
        yield opening
        opening = ","
        if not _long(value):
            yield _members(model, name)
        elif isinstance(value, BaseModel):
            yield f"{json.dumps(name)}:"
            yield from _pieces(value)
        else:
            yield f"{json.dumps(name)}:["
            yield from _elements(model, name, value)
            yield "]"
    yield "}" if opening == "," else "{}"


def _elements(model: BaseModel, name: str, value: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    comma = ""
    for start in range(0, len(value), _AT_ONCE):
        some = value[start : start + _AT_ONCE]
        if any(map(_long, some)) and all(isinstance(element, BaseModel) for element in some):
            for element in some:
                yield comma
                comma = ","
                yield from _pieces(element)
        else:
            yield comma
            comma = ","
            members = _members(model.model_copy(update={name: some}), name)
            yield members[members.index(":[") + 2 : -1]


def _members(model: BaseModel, name: str) -> str:
    """One field as it stands between an object's braces."""
    return model.model_dump_json(include={name}, exclude_unset=True, ensure_ascii=True)[1:-1]
