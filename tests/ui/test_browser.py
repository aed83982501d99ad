"""What comes back of a browser's store is checked, and what goes there cannot end the script that brings it."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from nicegui import Client

from candle_vllm.ui.browser import BrowserStore
from candle_vllm.ui.conversation import Conversation
from candle_vllm.ui.settings import Settings


class Browser:
    """Answers scripts with what a test has written down, and keeps them."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.scripts: list[str] = []

    async def run_javascript(self, code: str, *, timeout: float) -> Any:  # noqa: ASYNC109 - as the library has it
        self.scripts.append(code)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def store_of(answer: Any) -> tuple[BrowserStore, Browser]:
    browser = Browser(answer)
    return BrowserStore(cast(Client, browser)), browser


async def test_what_was_kept_comes_back() -> None:
    store, _ = store_of(
        {
            "conversations": [{"id": "a", "title": "A", "updated": 1}, {"id": "b", "title": "B", "updated": 2}],
            "settings": Settings(temperature=0.5).model_dump_json(),
            "key": "sk",
            "open": "a",
        }
    )
    stored = await store.read()
    assert [entry.id for entry in stored.entries] == ["b", "a"]
    assert (stored.settings.temperature, stored.key, stored.open) == (0.5, "sk", "a")


async def test_what_cannot_be_read_is_left_aside() -> None:
    for answer in (
        None,
        "nonsense",
        TimeoutError(),
        {"conversations": None, "settings": "{", "key": 7, "open": "gone"},
        {"conversations": [{"id": "a"}, 7], "settings": '{"temperature": 99}', "key": None},
    ):
        stored = await store_of(answer)[0].read()
        assert (stored.entries, stored.settings, stored.key, stored.open) == ([], Settings(), None, None)
    for answer in (None, "{", '{"messages": [{"role": "system", "text": "x"}]}'):
        assert await store_of(answer)[0].load("a") is None


async def test_what_is_said_stays_text_on_its_way() -> None:
    conversation = Conversation()
    conversation.ask('"); alert(1); ("\n\u2028</script>\\')
    store, browser = store_of(True)
    assert await store.save(conversation)
    [value] = re.findall(r"localStorage\.setItem\((.*)\); return true", browser.scripts[0], re.S)
    name, text = json.loads(f"[{value}]")
    assert name == f"candle-vllm.chat.{conversation.id}"
    assert Conversation.model_validate_json(text) == conversation
    await store.forget('a"); alert(1); ("')
    [name] = re.findall(r"localStorage\.removeItem\((.*)\); \} catch", browser.scripts[1])
    assert json.loads(name).endswith('a"); alert(1); ("')


async def test_a_browser_without_room_is_told_of() -> None:
    assert not await store_of(False)[0].save(Conversation())
    assert await store_of(None)[0].save(Conversation())
    store, browser = store_of(True)
    conversation = Conversation()
    conversation.ask("x" * 1_100_000)
    assert not await store.save(conversation) and browser.scripts == []


async def test_keys_are_kept_where_the_user_wants_them() -> None:
    store, browser = store_of(True)
    await store.save_key("sk", remember=False)
    await store.save_key("sk", remember=True)
    assert ["sessionStorage" in code for code in browser.scripts] == [True, False]
