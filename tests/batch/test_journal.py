"""The output of a batch: whole lines, found again, torn ones cut, other files left alone."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from candle_vllm.batch.answer import Answered
from candle_vllm.batch.journal import Journal, JournalError
from candle_vllm.batch.lines import Ask, Problem

GOOD = Answered(200, "abc", '{"text":"hello"}')


def ask(number: int, custom_id: str | None = None) -> Ask:
    return Ask(number, 10, custom_id or f"r{number}")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output with lines 3 and 1."""
    path = tmp_path / "out.jsonl"
    with Journal(path, 100) as journal:
        journal.write(ask(3), GOOD)
        journal.write(ask(1), Answered(400, "def", '{"error":{}}'))
        assert (journal.count, journal.failed) == (2, 1)
    return path


def test_the_lines_are_openai_s(out: Path) -> None:
    first, second = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    reply = {"status_code": 200, "request_id": "abc", "body": {"text": "hello"}}
    assert first == {"id": "batch_req_3", "custom_id": "r3", "response": reply, "error": None}
    assert second["response"]["status_code"] == 400


def test_what_is_done_is_found_again(out: Path) -> None:
    with Journal(out, 100) as journal:
        assert (journal.count, journal.failed) == (2, 1)
        assert [journal.holds(number, f"r{number}") for number in (1, 2, 3, 99_999)] == [True, False, True, False]
        with pytest.raises(JournalError, match="line 3 had another custom_id than 'else'"):
            journal.holds(3, "else")


@pytest.mark.parametrize("custom_id", ['a"b\\', "é\u2028", "\ud800", None])
def test_any_custom_id_comes_back(tmp_path: Path, custom_id: str | None) -> None:
    asked = Ask(1, 1, custom_id)
    with Journal(tmp_path / "out", 100) as journal:
        journal.write(asked, Problem("invalid_url", 'no\n"such'))
    with Journal(tmp_path / "out", 100) as journal:
        assert journal.holds(1, custom_id)
        assert (journal.count, journal.failed) == (1, 1)


@pytest.mark.parametrize("kept", range(1, 40))
def test_a_torn_line_is_cut(out: Path, kept: int) -> None:
    whole = out.read_bytes()
    out.write_bytes(whole + whole[:kept])
    with Journal(out, 100) as journal:
        assert journal.count == 2
        journal.write(ask(2), GOOD)
    assert out.read_bytes().startswith(whole)
    assert len(out.read_bytes().splitlines()) == 3


def test_zeros_that_a_lost_machine_left_are_cut(out: Path) -> None:
    whole = out.read_bytes()
    out.write_bytes(whole + b"\0" * 50)
    with Journal(out, 100):
        pass
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"my notes", "last line is not one of run-batch's"),
        (b"my notes\n", "line 1 is not one of run-batch's"),
        (b'{"id":"batch_req_100","custom_id":"a","response":null}\n', "on this input"),
        (b'{"id":"batch_req_5","custom_id":"a","response":null}\n' * 2, "line 2 answers line 5 of the input once more"),
    ],
)
def test_another_file_is_left_alone(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(text)
    with pytest.raises(JournalError, match=said):
        Journal(path, 100)
    assert path.read_bytes() == text
    # Nor is it held.
    with pytest.raises(JournalError, match=said):
        Journal(path, 100)


def test_one_process_at_a_time(out: Path) -> None:
    with Journal(out, 100), pytest.raises(JournalError, match="being written by another run-batch"):
        Journal(out, 100)


def test_a_disk_that_is_full_leaves_whole_lines(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = out.read_bytes()
    write = os.write

    def half(file: int, text: memoryview) -> int:
        if len(text) < 60:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, text[:50])

    with Journal(out, 100) as journal:
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(JournalError, match="No space left on device.*2 whole lines"):
            journal.write(ask(2), GOOD)
        assert not journal.holds(2, "r2")
    assert out.read_bytes() == whole
