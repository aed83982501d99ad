"""Items of a conversation as the Responses API writes them, on their way in and as they are listed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from candle_vllm.openai.request import Utf8

__all__ = ["MOST_ITEMS", "Content", "InputItem", "Items", "Part", "fresh_item_id", "listed"]

MOST_ITEMS = 10_000
"""Of one conversation."""
_MOST_PARTS = 1_000
_MOST_ARGUMENTS = 500_000


class Part(BaseModel):
    """One part of a message, of a tool's output or of reasoning. Only text can be honoured."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    text: Utf8 | None = None
    refusal: Utf8 | None = None

    @model_validator(mode="after")
    def _has_its_text(self) -> Part:
        field = "refusal" if self.type == "refusal" else "text"
        if self.type in _TEXTS and getattr(self, field) is None:
            raise ValueError(f"a part of type '{self.type}' needs the field '{field}'")
        return self

    @property
    def shown(self) -> str | None:
        """Its text; None for one that is no text."""
        return (self.refusal if self.type == "refusal" else self.text) if self.type in _TEXTS else None


_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"))

Content = Utf8 | Annotated[list[Part], Field(fail_fast=True, max_length=_MOST_PARTS)]


class InputItem(BaseModel):
    """One item; which fields count depends on its type. Further fields, which replies have, are kept as they came."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str = ""
    """Absent: a message where there is a role, else a reference to an item."""
    id: Annotated[str, Field(max_length=256)] | None = None
    status: Literal["in_progress", "completed", "incomplete", "calling", "failed"] | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Content | None = None
    """Of a message, or what the model thought."""
    call_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    name: Utf8 | None = None
    arguments: Annotated[Utf8, Field(max_length=_MOST_ARGUMENTS)] | None = None
    """JSON text."""
    output: Content | None = None
    """What a call gave."""
    turn: int | None = None
    """Which of the model's answers made a call that was run here."""
    summary: Annotated[list[Part], Field(fail_fast=True, max_length=_MOST_PARTS)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> InputItem:
        self.type = self.type or ("message" if self.role else "item_reference")
        for field in _NEEDED.get(self.type, ()):
            if getattr(self, field) is None:
                raise ValueError(f"an item of type '{self.type}' needs the field '{field}'")
        return self


_NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "item_reference": ("id",),
    "mcp_call": ("id", "name", "arguments"),
}


def _plain(items: object) -> object:
    """Typed items of whatever package as dictionaries, so that a reply's output can be appended as it came."""
    if not isinstance(items, list | tuple):
        return items
    return [
        item.model_dump(exclude_none=True)
        if isinstance(item, BaseModel) and not isinstance(item, InputItem)
        else {key: value for key, value in item.items() if value is not None}
        if isinstance(item, Mapping)
        else item
        for item in items
    ]


Items = Annotated[list[InputItem], Field(fail_fast=True, max_length=MOST_ITEMS), BeforeValidator(_plain)]


def fresh_item_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(24)}"


def listed(item: InputItem) -> dict[str, Any]:
    """An item in the full form that lists have."""
    shown = item.model_dump(exclude_none=True)
    if item.type == "message" and isinstance(item.content, str):
        part: dict[str, Any] = {"type": "input_text", "text": item.content}
        if item.role == "assistant":
            part = {"type": "output_text", "text": item.content, "annotations": []}
        shown["content"] = [part]
    if item.type == "reasoning":
        shown.setdefault("summary", [])
    return {"status": "completed", **shown}
