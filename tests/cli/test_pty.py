"""candle-vllm chat in a terminal, and output into a pipe that closes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
SCRIPT = """
import os, sys
import candle_vllm.cli.chat as chat, candle_vllm.cli.complete as complete
from candle_vllm.cli import main
from fake_engine import FakeEngine

engine = FakeEngine(delay=0.005)
if os.environ.get("ANSWER"):
    engine.answer = os.environ["ANSWER"]
if os.environ.get("FAIL_AFTER"):
    engine.fail_after = int(os.environ["FAIL_AFTER"])
chat.load_engine = complete.load_engine = lambda args: engine
status = main()
print("STATUS", status, "LIVE", len(engine.live), file=sys.stderr)
sys.exit(status)
"""


def environment(**more: str) -> dict[str, str]:
    """This process's, with the paths of package and tests."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "TERM": "dumb", **more}


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *argv: str, **more: str) -> None:
        self._outside, inside = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *argv],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=environment(**more),
            start_new_session=True,
        )
        os.close(inside)
        self.shown = ""

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._outside, text.encode() + b"\n")

    def until(self, pattern: str, seconds: float = 20) -> None:
        """Read until this is shown after what was awaited before, and forget all up to it."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < end, self.shown
            if select.select([self._outside], [], [], 0.1)[0]:
                self.shown += os.read(self._outside, 4096).decode()
        self.shown = self.shown[found.end() :]

    def interrupt(self, pattern: str) -> None:
        """Interrupt it until this is shown: input() misses a signal between its prompt and its first wait for a key."""
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                self.until(pattern, 1)
                return
        raise AssertionError(self.shown)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait(10)
        os.close(self._outside)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Terminals that the test's end closes."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_talking(terminals: list[Terminal]) -> None:
    terminal = Terminal("chat", "--m", "smollm2")
    terminals.append(terminal)
    terminal.until("/help shows the commands")
    terminal.until("> ")
    terminal.type("hello")
    terminal.until("You said: hello\r\n> ")
    terminal.type("/help")
    terminal.until("/exit")
    terminal.type("/reset")
    terminal.type("x" * 3000)
    terminal.until("error: .*maximum context length is 2048")
    terminal.until("/reset forgets the conversation, which makes room again")
    terminal.type("again")
    terminal.until("You said: again\r\n> ")
    terminal.type("/exit")
    terminal.until("STATUS 0 LIVE 0")


def test_commands(terminals: list[Terminal], tmp_path: Path) -> None:
    terminal = Terminal("run", "smollm2", "--system", "be brief")
    terminals.append(terminal)
    terminal.until("> ")
    terminal.type("hello")
    terminal.until("You said: hello\r\n> ")
    terminal.type("/system be verbose")
    terminal.until("from now on")
    terminal.type(f"/save {tmp_path}/talk.json")
    terminal.until("saved to")
    assert json.loads((tmp_path / "talk.json").read_text()) == [
        {"role": "system", "content": "be verbose"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "You said: hello"},
    ]
    terminal.type(f"/save {tmp_path}/no/such/folder")
    terminal.until("error: .*No such file")
    terminal.type("/save")
    terminal.until("name a file")
    terminal.type("/sytem x")
    terminal.until("there is no /sytem")
    terminal.type("/system")
    terminal.until("no system message any more")
    terminal.type("/exit")
    terminal.until("STATUS 0 LIVE 0")


def test_failures_do_not_end_the_conversation(terminals: list[Terminal]) -> None:
    terminal = Terminal("chat", ANSWER="word " * 50, FAIL_AFTER="12")
    terminals.append(terminal)
    terminal.until("> ")
    for _ in range(2):
        terminal.type("hello")
        terminal.until("word wo")
        terminal.until("\r\nerror: .*the device caught fire")
        terminal.until("> ")
    terminal.type("/exit")
    terminal.until("STATUS 0 LIVE 0")


def test_stopping_an_answer(terminals: list[Terminal]) -> None:
    terminal = Terminal("chat", ANSWER="word " * 2000)
    terminals.append(terminal)
    terminal.until("> ")
    terminal.type("hello")
    terminal.until("word word")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until(r"\r\n> ")
    terminal.interrupt("Ctrl-D leaves")
    # Before the prompt the terminal takes the key for itself.
    terminal.until("> ")
    os.write(terminal._outside, b"\x04")
    terminal.until("STATUS 0 LIVE 0")


def piped(*argv: str | bytes, given: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """A command over pipes."""
    command = [sys.executable, "-c", SCRIPT, *argv]
    return subprocess.run(command, input=given, capture_output=True, env=environment(**more), timeout=30)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["chat", "complete"])
def test_an_output_that_cannot_show_a_character(command: str, encoding: str) -> None:
    done = piped(command, "hello", ANSWER="to 東京!", PYTHONIOENCODING=encoding)
    assert done.stdout == b"to ??!\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("command", ["chat", "complete"])
def test_what_is_not_utf_8_is_replaced(command: str) -> None:
    as_argument = piped(command, b"caf\xe9", "--stop", b"\xff\xff", PYTHONUTF8="1")
    assert as_argument.stdout.decode() == "You said: caf\ufffd\n", as_argument.stderr
    as_input = piped(command, given=b"caf\xe9", PYTHONUTF8="1")
    assert as_input.stdout.decode() == "You said: caf\ufffd\n", as_input.stderr
    system = piped("chat", "hello", "--system", b"\xff")
    assert system.returncode == 0, system.stderr


def test_a_flag_that_is_not_utf_8_is_a_message() -> None:
    done = piped("chat", b"--m", b"\xff/x", "--dtype", b"\xff")
    assert done.returncode == 0 or b"error:" in done.stderr
    assert b"Traceback" not in done.stderr
    wrong = piped(b"--\xff")
    assert (wrong.returncode, b"there is no flag" in wrong.stderr) == (2, True)


def test_a_reader_that_leaves() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "complete", "hello", "--max-tokens", "2000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(ANSWER="word " * 300),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(4) == b"word"
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(20) == 1
    process.stderr.close()
    assert "STATUS 1 LIVE 0" in said
    assert "Traceback" not in said
    assert "Error" not in said
