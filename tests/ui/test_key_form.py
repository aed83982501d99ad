"""A server with keys: the page shows nothing before it has one that fits."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from page_server import Tab, chromium, page_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with page_server(tmp_path_factory.mktemp("keys"), "--api-key", "alice sk-alice", "--rate-limit", "3.01") as address:
        yield address


@pytest.mark.parametrize("path", ["/", "/operator"])
def test_the_key_is_asked_for_and_wrong_ones_are_refused(browser: Browser, url: str, path: str) -> None:
    context = browser.new_context()
    tab = Tab(context.new_page(), url + path)
    box = tab.page.get_by_label("API key", exact=True)
    box.fill("sk-bob")
    box.press("Enter")
    expect(tab.page.get_by_role("alert")).to_have_text("Incorrect API key.")
    assert tab.page.locator(".cv-app, .cv-tiles").count() == 0
    box.fill("sk-alice")
    tab.page.get_by_role("button", name="Continue").click()
    tab.page.locator(".cv-app, .cv-tiles").wait_for()
    tab.page.reload()
    tab.page.locator(".cv-app, .cv-tiles").wait_for()
    assert tab.page.get_by_label("API key", exact=True).count() == 0
    # Of this page alone, unless the user wants it kept.
    other = Tab(context.new_page(), url + path)
    other.page.get_by_label("API key", exact=True).wait_for()
    assert tab.problems == [] and tab.strangers == []
    context.close()


def test_a_remembered_key_is_of_the_browser(browser: Browser, url: str) -> None:
    context = browser.new_context()
    tab = Tab(context.new_page(), url)
    tab.page.get_by_label("API key", exact=True).fill("sk-alice")
    tab.page.get_by_role("checkbox").click()
    tab.page.get_by_role("button", name="Continue").click()
    tab.ready()
    Tab(context.new_page(), url).ready()
    context.close()


def test_what_is_asked_counts_for_the_key(browser: Browser, url: str) -> None:
    context = browser.new_context()
    tab = Tab(context.new_page(), url)
    tab.page.get_by_label("API key", exact=True).fill("sk-alice")
    tab.page.get_by_role("button", name="Continue").click()
    tab.ready()
    tab.ask("hello")
    tab.until("You said: hello")
    tab.until_ended()
    used = httpx.get(url + "/v1/usage", headers={"x-api-key": "sk-alice"}).json()
    assert [(row["key"], row["requests"]) for row in used["data"]] == [("alice", 1)]
    tab.page.get_by_role("button", name="Regenerate").click()
    tab.until_ended()
    tab.page.get_by_role("button", name="Regenerate").click()
    tab.until("Rate limit reached")
    assert httpx.get(url + "/v1/models", headers={"x-api-key": "sk-alice"}).status_code == 429
    context.close()
