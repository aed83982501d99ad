"""BrowserStore: conversations, settings and the API key, kept in the browser that shows the page and nowhere else.

The few lines of JavaScript are all there is of it: a browser's store can be reached in no other way. What comes back is
checked, since anything may have been written there. Must not know what is shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nicegui import Client
from pydantic import BaseModel, ValidationError

from candle_vllm.ui.conversation import Conversation
from candle_vllm.ui.settings import Settings

__all__ = ["MAX_MESSAGE", "BrowserStore", "Entry", "Stored"]

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message of a page's web socket: a conversation that a browser gives back."""
_KEPT_MOST = MAX_MESSAGE // 4
"""Characters of a conversation that is kept: a message writes one in up to three bytes, or escapes it."""
_SECONDS = 10.0
"""How long a browser may take to answer."""
_READ = """
const found = {conversations: [], settings: null, key: null, open: null};
try {
  found.settings = localStorage.getItem("candle-vllm.settings");
  found.key = sessionStorage.getItem("candle-vllm.key") ?? localStorage.getItem("candle-vllm.key");
  found.open = sessionStorage.getItem("candle-vllm.open");
  for (const name of Object.keys(localStorage)) {
    if (!name.startsWith("candle-vllm.chat.")) continue;
    try {
      const {id, title, updated} = JSON.parse(localStorage.getItem(name));
      found.conversations.push({id, title, updated});
    } catch {}
  }
} catch {}
return found;
"""
_WRITE = "try {{ {store}.setItem({name}, {value}); return true; }} catch {{ return false; }}"
_REMOVE = "try {{ {store}.removeItem({name}); }} catch {{}}"

ModelT = TypeVar("ModelT", bound=BaseModel)


class Entry(BaseModel):
    """A conversation in the list of them."""

    id: str
    title: str
    updated: float


@dataclass(frozen=True, slots=True)
class Stored:
    """What a browser had when its page was opened."""

    entries: list[Entry] = field(default_factory=list)
    """The latest first."""
    settings: Settings = field(default_factory=Settings)
    key: str | None = None
    open: str | None = None
    """Id of the conversation that this tab showed before it was loaded again."""


class BrowserStore:
    """The store of one page's browser. Its methods do nothing once the page is gone."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def read(self) -> Stored:
        """All but the conversations themselves."""
        found = await self._run(_READ)
        if not isinstance(found, dict):
            return Stored()
        entries = [entry for one in found.get("conversations") or () if (entry := _checked(Entry, one)) is not None]
        settings = _from_json(Settings, found.get("settings"))
        key, shown = found.get("key"), found.get("open")
        if not any(entry.id == shown for entry in entries):
            shown = None
        entries.sort(key=lambda entry: -entry.updated)
        return Stored(entries, settings or Settings(), key if isinstance(key, str) else None, shown)

    async def load(self, name: str) -> Conversation | None:
        """The conversation of this id; None where there is none, or none that can be read."""
        return _from_json(Conversation, await self._run(f"return localStorage.getItem({_chat(name)})"))

    async def save(self, conversation: Conversation) -> bool:
        """Keep it. False where the browser has no room left for it, or could not give it back."""
        text = conversation.model_dump_json()
        return len(text) <= _KEPT_MOST and await self._write("localStorage", _chat(conversation.id), text)

    async def remember(self, name: str) -> None:
        """Have the conversation of this id opened when the tab is loaded again."""
        await self._write("sessionStorage", '"candle-vllm.open"', name)

    async def forget(self, name: str) -> None:
        """Forget the conversation of this id."""
        await self._run(_REMOVE.format(store="localStorage", name=_chat(name)))

    async def save_settings(self, settings: Settings) -> None:
        """Keep them for all pages of this browser."""
        await self._write("localStorage", '"candle-vllm.settings"', settings.model_dump_json(exclude_none=True))

    async def save_key(self, key: str, remember: bool) -> None:
        """Keep the key until the tab is closed, or for good."""
        await self._write("localStorage" if remember else "sessionStorage", '"candle-vllm.key"', key)

    async def forget_key(self) -> None:
        """Forget the key wherever it is."""
        for store in ("localStorage", "sessionStorage"):
            await self._run(_REMOVE.format(store=store, name='"candle-vllm.key"'))

    async def _write(self, store: str, name: str, value: str) -> bool:
        return await self._run(_WRITE.format(store=store, name=name, value=json.dumps(value))) is not False

    async def _run(self, code: str) -> Any:
        try:
            return await self._client.run_javascript(code, timeout=_SECONDS)
        except TimeoutError:
            return None


def _chat(name: str) -> str:
    return json.dumps(f"candle-vllm.chat.{name}")


def _checked(kind: type[ModelT], value: object) -> ModelT | None:
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None


def _from_json(kind: type[ModelT], text: object) -> ModelT | None:
    if not isinstance(text, str):
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None
