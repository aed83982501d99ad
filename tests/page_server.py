"""`candle-vllm serve --ui-server` as a process over fake engines, and the browser that looks at its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

TESTS = Path(__file__).parent
MODELS = """
models:
  - {name: small, hf_id: org/small, notes: says what it heard}
  - {name: slow, hf_id: org/slow}
  - {name: endless, hf_id: org/endless}
  - {name: hostile, hf_id: org/hostile}
  - {name: caller, hf_id: org/caller}
  - {name: thinker, hf_id: org/thinker}
"""
HOSTILE = (
    "<script>document.title = 'pwned'</script>\n\n<img src=x onerror=\"document.title='pwned'\">\n\n"
    "[click me](javascript:document.title='pwned') ![track](https://stranger.example/pixel.png) "
    "<iframe src='https://stranger.example'></iframe> [data](data:text/html,<script>1</script>)\n\n"
    "```html\n</code></pre><script>document.title = 'pwned'</script>\n```\n\n" + "A" * 1_000_000
)

FAKES = """
import asyncio, sys, time
import candle_vllm.cli.serve as serve
from candle_vllm.cli import main
from candle_vllm.models import EngineLoader
from page_server import engine_of

def load(args, config, progress):
    for done in range(4):
        progress("weights", done, 4)
        time.sleep(0.15)
    return engine_of(str(config.model_path))

async def fetch(self, entry):
    pass

serve.load_with = load
EngineLoader.fetch = fetch
sys.exit(main())
"""
REAL = "import sys; from candle_vllm.cli import main; sys.exit(main())"


def engine_of(path: str) -> object:
    """The fake engine that stands for a model."""
    from fake_engine import FakeEngine
    from scripted import ScriptedEngine

    name = path.rpartition("/")[2]
    if name in ("slow", "endless"):
        return FakeEngine(answer="word " * (500 if name == "slow" else 20_000), delay=0.001, context=200_000)
    if name == "hostile":
        return _pieces(FakeEngine(answer=HOSTILE), 8192)
    if name == "caller":
        return ScriptedEngine([("count", {"thing": "pears"})], "There are **five** pears.")
    if name == "thinker":
        return FakeEngine(answer="<think>Two and two. <b>Hm</b>.</think>\n\nIt is **four**.", delay=0.002)
    return FakeEngine(delay=0.005)


def _pieces(engine: object, size: int) -> object:
    """The engine, whose answer comes in pieces of so many characters."""
    from candle_vllm.records import FinishReason, GenerationChunk
    from fake_engine import FakeEngine

    assert isinstance(engine, FakeEngine)
    text = engine.answer or ""

    def script(prompt: list[int], params: object) -> Iterator[GenerationChunk]:
        for at in range(0, len(text), size):
            yield GenerationChunk(text=text[at : at + size], token_ids=[65] * 16)
        yield FakeEngine.last("", [], None, FinishReason.STOP, None, prompt, len(text))

    engine.script = script  # type: ignore[method-assign]
    return engine


@contextmanager
def page_server(folder: Path, *flags: str, real: bool = False) -> Iterator[str]:
    """The address of a server; over the default model where `real`."""
    if not real:
        (folder / "models.yaml").write_text(MODELS)
    # What the library does otherwise when it sees a test is not what users get.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    process = subprocess.Popen(
        [sys.executable, "-c", REAL if real else FAKES, "--ui-server", "--h", "127.0.0.1:0", *flags],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )
    assert process.stderr is not None
    said: list[str] = []
    reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        end = time.monotonic() + 60
        while (found := re.search(r"serving +(http://\S+)/v1", "".join(said))) is None:
            assert time.monotonic() < end and process.poll() is None, "".join(said)
            time.sleep(0.02)
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        reader.join(5)
        process.stderr.close()
    log = "".join(said)
    assert "Traceback" not in log and " ERROR " not in log, log
    assert process.returncode == 0, log


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Where tests are the gate it has to be there."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("these tests need Chromium (Debian's package chromium)")
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """One page of the chat."""

    def __init__(self, page: Page, url: str, **settings: object) -> None:
        self.page = page
        self.url = "/".join(url.split("/")[:3])
        self.problems: list[str] = []
        self.strangers: list[str] = []
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.frames = 0
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: self._framed()))
        page.on("request", lambda request: self._heard(request.url))
        if settings:
            # As this browser would have kept them.
            page.add_init_script(f"localStorage.setItem('candle-vllm.settings', {json.dumps(json.dumps(settings))})")
        page.goto(url)

    def _framed(self) -> None:
        self.frames += 1

    def _heard(self, address: str) -> None:
        if not address.startswith((self.url, self.url.replace("http", "ws"), "data:", "blob:")):
            self.strangers.append(address)

    def ready(self) -> Tab:
        """Wait for the page."""
        self.page.get_by_label("Message", exact=True).wait_for()
        return self

    def ask(self, text: str) -> None:
        """Type it and send it."""
        box = self.page.get_by_label("Message", exact=True)
        box.fill(text)
        box.press("Enter")

    def choose(self, model: str) -> None:
        """Switch to a model."""
        self.page.get_by_label("Model", exact=True).click()
        self.page.get_by_role("option", name=model, exact=True).click()

    def until_ended(self, timeout: float = 30.0) -> None:
        """Wait for the end of the answer."""
        expect(self.page.get_by_role("button", name="Regenerate").last).to_be_visible(timeout=timeout * 1000)

    def until(self, text: str, timeout: float = 15.0) -> None:
        """Wait until this is in the last answer."""
        expect(self.page.locator(".cv-answer").last).to_contain_text(text, timeout=timeout * 1000)

    @property
    def answer(self) -> str:
        """The text of the last answer, without what stands around it."""
        return "\n".join(self.page.locator(".cv-answer").last.locator(".cv-text").all_text_contents())

    @property
    def questions(self) -> list[str]:
        """What was asked, as it is shown."""
        return self.page.locator(".cv-bubble").all_inner_texts()
