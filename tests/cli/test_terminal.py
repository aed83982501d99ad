"""chat and complete over a fake engine, without a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from candle_vllm.cli import main
from fake_engine import FakeEngine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that chat and complete load."""
    fake = FakeEngine()
    for command in ("chat", "complete"):
        monkeypatch.setattr(f"candle_vllm.cli.{command}.load_engine", lambda *_: fake)
    return fake


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_one_message(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "hello", "--seed", "3", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "You said: hello (seed 3)\n"
    assert engine.submitted[-1][1].temperature == 0
    assert engine.closed


def test_sampling_of_a_talk(engine: FakeEngine) -> None:
    assert main(["chat", "hello"]) == 0
    assert (engine.submitted[-1][1].temperature, engine.submitted[-1][1].min_p) == (0.7, 0.05)
    engine.closed = False
    assert main(["chat", "hello", "--min-p", "0.2"]) == 0
    assert (engine.submitted[-1][1].temperature, engine.submitted[-1][1].min_p) == (0.7, 0.2)
    # A checkpoint's recommendation is a whole: nothing is mixed into it.
    engine.closed = False
    engine.advice = {"temperature": 0.2, "top_p": 0.9}
    assert main(["run", "smollm2", "hello"]) == 0
    params = engine.submitted[-1][1]
    assert (params.temperature, params.top_p, params.min_p) == (0.2, 0.9, 0.0)
    engine.closed = False
    assert main(["complete", "hello"]) == 0
    assert engine.submitted[-1][1].temperature == 0.2


def test_lines_are_turns(engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    feed(monkeypatch, "first\n\nsecond\n")
    assert main(["chat", "--system", "be brief"]) == 0
    assert capsys.readouterr().out == "You said: first\nYou said: second\n"
    prompt = engine.detokenize(engine.submitted[-1][0])
    assert prompt == "system\nbe brief\nuser\nfirst\nassistant\nYou said: first\nuser\nsecond\nassistant\n"


def test_complete(engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    assert main(["complete", "abc", "--echo"]) == 0
    assert capsys.readouterr().out == "abcYou said: abc\n"
    engine.closed = False
    feed(monkeypatch, "from a pipe")
    assert main(["complete", "--stop", "pipe"]) == 0
    assert capsys.readouterr().out == "You said: from a \n"
    feed(monkeypatch, "")
    assert main(["complete"]) == 2


def test_failures_are_messages(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.chat_templates = {}
    assert main(["chat", "hello"]) == 1
    assert "no chat template" in capsys.readouterr().err
