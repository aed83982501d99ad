"""Lines of a batch file, good and bad."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.batch import lines
from candle_vllm.batch.lines import Line, ask_of, lines_of

URLS = {"/v1/chat/completions", "/v1/completions"}


def line(**changes: Any) -> Line:
    said = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}, **changes}
    return Line(7, json.dumps(said).encode(), 100)


def test_lines_are_numbered_as_editors_do_and_blank_ones_left_out() -> None:
    text = b"\xef\xbb\xbfone\n\n \r\nfour\r\nfive"
    assert list(lines_of(io.BytesIO(text))) == [
        Line(1, b"one\n", 7),
        Line(4, b"four\r\n", 6),
        Line(5, b"five", 4),
    ]


def test_a_line_too_long_is_passed_over_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 10)
    text = b"x" * 10 + b"\n" + b"y" * 3_000_000 + b"\nnext\n"
    assert list(lines_of(io.BytesIO(text))) == [
        Line(1, b"x" * 10 + b"\n", 11),
        Line(2, None, 3_000_001),
        Line(3, b"next\n", 5),
    ]
    [problem] = [ask_of(each, URLS).problem for each in lines_of(io.BytesIO(text)) if each.text is None]
    assert problem is not None and problem.code == "line_too_long" and "line 2" in problem.message


def test_a_request() -> None:
    ask = ask_of(line(), URLS)
    assert (ask.number, ask.size, ask.custom_id, ask.url, ask.body) == (7, 100, "a", "/v1/completions", {"prompt": "x"})
    assert ask.problem is None


@pytest.mark.parametrize(
    ("bad", "code", "said"),
    [
        (Line(7, b"{", 1), "invalid_json_line", "not JSON"),
        (Line(7, b"[" * 100_000, 1), "invalid_json_line", "not JSON"),
        (Line(7, b'{"custom_id": "\xff"}', 1), "invalid_json_line", "not JSON"),
        (Line(7, b"[]", 1), "invalid_json_line", "not a JSON object"),
        (line(custom_id=None), "missing_custom_id", "custom_id"),
        (line(custom_id=""), "missing_custom_id", "custom_id"),
        (line(custom_id=3), "missing_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "'GET'"),
        (line(url="/v1/rerank"), "invalid_url", "/v1/chat/completions, /v1/completions; got '/v1/rerank'"),
        (line(url=["/v1/completions"]), "invalid_url", "got ['/v1/completions']"),
        (line(url="/v1/embeddings"), "invalid_url", "no embeddings"),
        (line(body="x"), "invalid_body", "JSON object"),
    ],
)
def test_what_is_no_request_says_why_and_where(bad: Line, code: str, said: str) -> None:
    problem = ask_of(bad, URLS).problem
    assert problem is not None
    assert problem.code == code
    assert problem.message.startswith("line 7: ") and said in problem.message


def test_prompts_that_begin_alike_are_neighbours() -> None:
    def key(system: str, user: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return ask_of(line(url="/v1/chat/completions", body={"seed": len(user), "messages": messages}), URLS).key

    mixed = [("you are a cook", "b"), ("you are a poet", "a"), ("you are a cook", "a"), ("you are a poet", "b")]
    assert [system for system, _ in sorted(mixed, key=lambda each: key(*each))] == [
        "you are a cook",
        "you are a cook",
        "you are a poet",
        "you are a poet",
    ]
