"""Every format against its case file: whole, one character at a time and under random splits, all equal."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.tools import FORMATS, CallArguments, CallEnded, CallStarted, Splitter, Text, parse

FOLDER = Path(__file__).parent / "cases"
FILES = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}
CASES = [
    pytest.param(name, case, id=f"{name}: {case['name']}") for name, file in FILES.items() for case in file["cases"]
]


@dataclass
class Reply:
    """What a reply's events add up to, and whether their order is one that a client can follow."""

    content: str
    calls: list[tuple[str, str]]
    ids: list[str]
    ended: list[int]
    truncated: bool


def fold(pieces: list[str], form: str, tools: list[dict[str, Any]]) -> Reply:
    splitter = Splitter(form, tools)
    events = [event for piece in pieces for event in splitter.feed(piece)] + splitter.end()
    reply = Reply("", [], [], [], splitter.truncated)
    for event in events:
        match event:
            case Text(text):
                assert text
                reply.content += text
            case CallStarted(index, id_, name):
                assert index == len(reply.calls)
                reply.calls.append((name, ""))
                reply.ids.append(id_)
            case CallArguments(index, text):
                assert index == len(reply.calls) - 1
                assert text
                assert index not in reply.ended
                reply.calls[index] = (reply.calls[index][0], reply.calls[index][1] + text)
            case CallEnded(index):
                assert index == len(reply.calls) - 1
                reply.ended.append(index)
    return reply


def cut(text: str, rng: random.Random) -> list[str]:
    points = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, max(2, len(text) // 3))))
    return [text[start:end] for start, end in zip([0, *points], [*points, len(text)], strict=True)]


@pytest.mark.parametrize(("form", "case"), CASES)
def test_case(form: str, case: dict[str, Any]) -> None:
    tools = case.get("tools", FILES[form]["tools"])
    whole = fold([case["text"]], form, tools)
    assert whole.content == (case["content"] or "")
    assert [name for name, _ in whole.calls] == [call["name"] for call in case["calls"]]
    for (_, arguments), call in zip(whole.calls, case["calls"], strict=True):
        expected = call["arguments"]
        assert (arguments if isinstance(expected, str) else json.loads(arguments)) == expected
    for id_, call in zip(whole.ids, case["calls"], strict=True):
        assert "id" not in call or id_ == call["id"]
    truncated = case.get("truncated", False)
    assert whole.truncated is truncated
    assert len(whole.ended) == case.get("ended", len(whole.calls) - (1 if truncated and whole.calls else 0))

    characters = fold(list(case["text"]), form, tools)
    assert (characters.content, characters.calls) == (whole.content, whole.calls)
    assert (characters.ended, characters.truncated) == (whole.ended, whole.truncated)


@pytest.mark.parametrize(("form", "case"), CASES)
def test_random_splits(form: str, case: dict[str, Any]) -> None:
    tools = case.get("tools", FILES[form]["tools"])
    whole = fold([case["text"]], form, tools)
    rng = random.Random(case["name"])
    for _ in range(100):
        pieces = cut(case["text"], rng)
        reply = fold(pieces, form, tools)
        assert (reply.content, reply.calls) == (whole.content, whole.calls), pieces
        assert (reply.ended, reply.truncated) == (whole.ended, whole.truncated), pieces


@pytest.mark.parametrize(("form", "case"), CASES)
def test_parse_says_the_same(form: str, case: dict[str, Any]) -> None:
    tools = case.get("tools", FILES[form]["tools"])
    whole = fold([case["text"]], form, tools)
    reply = parse(case["text"], form, tools)
    assert [(call.name, call.arguments) for call in reply.tool_calls] == whole.calls
    assert (reply.content or "") == whole.content
    assert (reply.content is None) == (not whole.content and bool(whole.calls))
    assert reply.truncated is whole.truncated


def test_each_format_has_its_cases() -> None:
    assert set(FILES) == {form.name for form in FORMATS} - {"passthrough"}
    assert all(len(file["cases"]) >= 15 for file in FILES.values())
    assert all(len({case["name"] for case in file["cases"]}) == len(file["cases"]) for file in FILES.values())
