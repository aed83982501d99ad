"""Programs written for OpenAI, unchanged, against the server: each answers and calls a tool."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.server import create_app
from fake_engine import FakeEngine
from live_server import LiveServer

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'


class Weatherman(FakeEngine):
    """Calls the tool once, then says what it heard."""

    def _said(self, prompt: list[int], params: Any) -> str:
        text = self.detokenize(prompt)
        return "It is sunny in Bern." if "<tool_response>" in text else CALL


@pytest.fixture
def url(serve: Callable[..., LiveServer]) -> str:
    return serve(create_app(Weatherman(), model_names=["fake"])).url + "/v1"


PROGRAMS = {
    "langchain": "langchain_openai",
    "litellm": "litellm",
    "pydantic_ai": "pydantic_ai",
    "openai_agents": "agents",
    "openai_agents_responses": "agents",
    "langchain_responses": "langchain_openai",
    "litellm_responses": "litellm",
    "pydantic_ai_responses": "pydantic_ai",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(name: str, url: str) -> None:
    if importlib.util.find_spec(PROGRAMS[name]) is None:
        pytest.skip(f"{PROGRAMS[name]} is not installed (extra interop)")
    # A process of its own: these libraries leave loops and connections to the interpreter's end.
    command = [sys.executable, str(Path(__file__).parent / "programs.py"), name, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
