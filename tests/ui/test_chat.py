"""Chatting in a browser over fake models: conversations, switches, hostile answers, tools, pages that are closed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from page_server import TESTS, Tab, chromium, page_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("chat")
    shelf = {"command": sys.executable, "args": [str(TESTS / "mcp_friendly.py")]}
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"shelf": shelf}}))
    with page_server(folder, "--mcp-config", str(folder / "mcp.json"), "--reasoning-parser", "qwen3") as address:
        yield address


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    """A page of a browser of its own, with the model `small`."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = Tab(context.new_page(), url).ready()
    yield made
    assert made.problems == [] and made.strangers == []
    context.close()


def running(url: str) -> int:
    return int(httpx.get(url + "/v1/models/status").json()["in_flight_requests"])


def until_running(url: str, count: int) -> None:
    end = time.monotonic() + 15
    while running(url) != count:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_conversations_stay_in_the_browser(tab: Tab) -> None:
    tab.choose("small")
    tab.ask("first question")
    tab.until("You said: first question")
    tab.until_ended()
    tab.page.get_by_role("button", name="New chat").click()
    tab.ask("second *question*")
    tab.until("You said: second question")
    tab.until_ended()
    tab.page.reload()
    tab.ready()
    tab.until("You said: second question")
    entries = tab.page.locator(".cv-entry")
    expect(entries).to_have_count(2)
    entries.get_by_role("button", name="first question").click()
    tab.until("You said: first question")
    assert tab.questions == ["first question"]
    tab.page.locator(".cv-entry.cv-active").get_by_label("Delete conversation").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(entries).to_have_count(1)
    tab.page.reload()
    tab.ready()
    expect(entries).to_have_count(1)


def test_an_edited_question_is_asked_in_its_place(tab: Tab) -> None:
    tab.choose("small")
    tab.ask("one")
    tab.until("You said: one")
    tab.until_ended()
    tab.ask("two")
    tab.until("You said: two")
    tab.until_ended()
    question = tab.page.locator(".cv-question").first
    question.hover()
    question.get_by_label("Edit", exact=True).click()
    question.get_by_label("Edit your message").fill("three")
    question.get_by_role("button", name="Send").click()
    tab.until("You said: three")
    tab.until_ended()
    assert tab.questions == ["three"]


def test_settings_are_in_the_request(tab: Tab) -> None:
    tab.choose("small")
    tab.page.get_by_label("Settings", exact=True).click()
    tab.page.get_by_label("Seed").fill("77")
    tab.page.get_by_label("Close settings").click()
    tab.ask("hello")
    tab.until("(seed 77)")
    tab.page.reload()
    tab.ready()
    tab.page.get_by_label("Settings", exact=True).click()
    expect(tab.page.get_by_label("Seed")).to_have_value("77")


def test_switch_while_another_page_streams(tab: Tab, browser: Browser, url: str) -> None:
    tab.choose("slow")
    tab.ask("go on")
    tab.until("word word")
    began, frames = time.monotonic(), tab.frames
    other = Tab(browser.new_context().new_page(), url).ready()
    other.choose("small")
    other.ask("are you there?")
    other.until("small is next; the active model finishes its answers. Position 1")
    tab.until_ended(40)
    assert tab.answer.count("word") == 500
    # Ten updates a second at most, and a few messages beside them; a token comes each millisecond or two.
    assert tab.frames - frames < 25 * (time.monotonic() - began)
    other.until("Loading small")
    other.until("You said: are you there?")
    other.page.context.close()


def test_a_hostile_answer_stays_text(tab: Tab, url: str) -> None:
    tab.choose("hostile")
    tab.ask("attack")
    slowest = 0.0
    end = time.monotonic() + 30
    while (
        tab.page.get_by_role("button", name="Regenerate").count() == 0
        or not tab.page.get_by_role("button", name="Regenerate").last.is_visible()
    ):
        began = time.monotonic()
        assert httpx.get(url + "/health").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        assert time.monotonic() < end
    assert slowest < 0.5
    assert tab.page.title() == "candle-vllm"
    answer = tab.page.locator(".cv-answer").last
    for tag in ("script", "img", "iframe", "a"):
        assert answer.locator(tag).count() == 0, tag
    text = tab.answer
    assert "<script>document.title = 'pwned'</script>" in text
    assert "onerror=" in text and "javascript:document.title" in text and "[image: track]" in text
    assert text.count("A") > 1_000_000 - 10
    width = tab.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1280
    began = time.monotonic()
    tab.page.get_by_label("Message", exact=True).fill("still here")
    assert time.monotonic() - began < 2


def test_tools_are_called_shown_and_switched_off(tab: Tab) -> None:
    tab.choose("caller")
    tab.ask("how many pears?")
    tab.until("There are five pears.")
    tab.until_ended()
    tab.page.get_by_text("count · shelf").click()
    call = tab.page.locator(".cv-call")
    expect(call).to_contain_text('"thing": "pears"')
    expect(call).to_contain_text("Result")
    expect(call).to_contain_text("5")
    tab.page.get_by_label("Settings", exact=True).click()
    tab.page.get_by_role("switch", name="Let the model call tools").click()
    tab.page.get_by_label("Close settings").click()
    tab.page.get_by_role("button", name="New chat").click()
    tab.ask("how many pears?")
    tab.until_ended()
    assert tab.page.locator(".cv-call").count() == 0


def test_thoughts_are_folded(tab: Tab) -> None:
    tab.choose("thinker")
    tab.ask("2 + 2?")
    tab.until("It is four.")
    tab.until_ended()
    thoughts = tab.page.locator(".cv-fold .cv-text")
    expect(thoughts).to_be_hidden()
    tab.page.get_by_text("Thoughts").click()
    expect(thoughts).to_be_visible()
    expect(thoughts).to_have_text("Two and two. <b>Hm</b>.")


def test_closing_the_page_ends_its_answer(tab: Tab, browser: Browser, url: str) -> None:
    context = browser.new_context()
    other = Tab(context.new_page(), url).ready()
    other.choose("endless")
    other.ask("go on")
    other.until("word word", 30)
    until_running(url, 1)
    context.close()
    until_running(url, 0)


def test_escape_stops(tab: Tab, url: str) -> None:
    tab.choose("endless")
    tab.ask("go on")
    tab.until("word word", 30)
    tab.page.keyboard.press("Escape")
    tab.until_ended()
    tab.until("stopped")
    until_running(url, 0)
    assert 0 < tab.answer.count("word") < 20_000
