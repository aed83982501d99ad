"""The page over a real model, through the real server: sending, streaming, stopping, asking again; large and small."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from candle_vllm import sources
from page_server import Tab, chromium, page_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    sources.resolve("smollm2")
    with page_server(tmp_path_factory.mktemp("real"), real=True) as address:
        yield address


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = Tab(context.new_page(), url, max_tokens=80).ready()
    yield made
    assert made.problems == [] and made.strangers == []
    context.close()


def test_send_and_stream(tab: Tab) -> None:
    tab.ask("Tell me a long story about a lighthouse.")
    stop = tab.page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    expect(tab.page.locator(".cv-answer .cv-block").first).to_contain_text(re.compile(r"\w"))
    early = tab.answer.strip()
    expect(stop).to_be_visible()
    tab.until_ended(40)
    assert early and tab.answer.strip().startswith(early[:10]) and len(tab.answer) > len(early) + 10
    expect(tab.page.locator(".cv-figures")).to_contain_text("tokens/s")
    expect(tab.page.get_by_role("button", name="Send")).to_be_visible()


def test_stop_and_regenerate(tab: Tab, url: str) -> None:
    tab.ask("Tell me a very long story about a lighthouse.")
    expect(tab.page.locator(".cv-answer .cv-block").first).to_be_visible()
    tab.page.get_by_role("button", name="Stop").click()
    tab.until_ended()
    tab.until("stopped")
    assert httpx.get(url + "/v1/models/status").json()["in_flight_requests"] == 0
    stopped = tab.answer
    tab.page.get_by_role("button", name="Regenerate").click()
    expect(tab.page.get_by_role("button", name="Stop")).to_be_visible()
    expect(tab.page.locator(".cv-answer .cv-block").first).to_be_visible()
    tab.page.keyboard.press("Escape")
    tab.until_ended()
    assert stopped and tab.page.locator(".cv-answer").count() == 1
    assert tab.questions == ["Tell me a very long story about a lighthouse."]


def test_a_reload_keeps_what_was_said(tab: Tab) -> None:
    tab.ask("Say hello.")
    tab.until_ended(40)
    said = tab.answer
    tab.page.reload()
    tab.ready()
    expect(tab.page.locator(".cv-figures")).to_contain_text("tokens/s")
    assert said and tab.answer == said


def test_shift_and_enter_is_a_new_line(tab: Tab) -> None:
    box = tab.page.get_by_label("Message", exact=True)
    box.type("one")
    box.press("Shift+Enter")
    box.type("two")
    expect(box).to_have_value("one\ntwo")
    assert tab.page.locator(".cv-question").count() == 0
    tab.page.get_by_role("button", name="Send").click()
    expect(tab.page.locator(".cv-bubble")).to_have_text("one\ntwo")
    tab.until_ended(40)


def test_nothing_is_wider_than_a_phone(browser: Browser, url: str) -> None:
    context = browser.new_context(
        viewport={"width": 375, "height": 700}, is_mobile=True, has_touch=True, color_scheme="dark"
    )
    tab = Tab(context.new_page(), url, max_tokens=80).ready()
    tab.ask("Write " + "a" * 200 + " and a Python function with a very long line of code.")
    tab.until_ended(40)
    for path in ("/", "/operator"):
        if path != "/":
            tab.page.goto(url + path)
            expect(tab.page.locator("canvas")).to_have_count(4)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 375
        background = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 60
    assert tab.problems == [] and tab.strangers == []
    context.close()


def test_what_the_page_is_served_with(url: str) -> None:
    page = httpx.get(url)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in page.headers
    assert httpx.get(url, headers={"host": "rebound.example"}).status_code == 421
    assert httpx.post(url).status_code == 405
    assert httpx.get(url + "/_nicegui/nothing").status_code == 404
    assert httpx.get(url + "/_nicegui_ws/socket.io/?EIO=4&transport=polling").status_code == 405


def test_sockets_of_other_sites_are_refused(url: str) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    address = url.replace("http", "ws") + "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    with connect(address, origin=None) as socket:
        assert str(socket.recv(5)).startswith("0{")
    for headers in ({"Origin": "https://stranger.example"}, {"Host": "rebound.example"}):
        with pytest.raises(InvalidStatus), connect(address, additional_headers=headers):
            pass
    with pytest.raises(InvalidStatus), connect(url.replace("http", "ws") + "/v1/models"):
        pass
