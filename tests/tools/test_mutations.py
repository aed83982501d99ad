"""Broken replies: whatever a model writes, parsing ends, raises nothing, loses no call's order and minds no split."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.tools import FORMATS, CallArguments, CallEnded, CallStarted, Event, Splitter, Text

FILES = [json.loads(path.read_text("utf-8")) for path in sorted((Path(__file__).parent / "cases").glob("*.json"))]
PIECES = [
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "\\",
    ",",
    ":",
    "<",
    ">",
    "\n",
    " ",
    "(",
    ")",
    "=",
    "</",
    "|>",
    "name",
    "x",
    "é",
]
ROUNDS = 12


def mutated(text: str, other: str, marks: tuple[str, ...], rng: random.Random) -> str:
    """The text with a few characters gone, pieces put in, or another reply's end."""
    for _ in range(rng.randrange(1, 4)):
        at, until = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        match rng.randrange(5):
            case 0:
                text = text[:at] + text[min(until, at + 3) :]
            case 1:
                text = text[:at] + rng.choice((*PIECES, *marks)) + text[at:]
            case 2:
                text = text[:at] + other[rng.randrange(len(other) + 1) :]
            case 3:
                text = text[:until]
            case _:
                text = text[:at] + text[at:until][:20] + text[at:]
    return text


def told(text: str, step: int, form: str, tools: list[dict[str, Any]]) -> tuple[list[Event], bool]:
    """The events with pieces joined and ids left out."""
    splitter = Splitter(form, tools)
    events: list[Event] = []
    for event in [
        *(event for at in range(0, len(text), step) for event in splitter.feed(text[at : at + step])),
        *splitter.end(),
    ]:
        last = events[-1] if events else None
        match event:
            case Text(piece) if isinstance(last, Text):
                events[-1] = Text(last.text + piece)
            case CallArguments(index, piece) if isinstance(last, CallArguments):
                assert last.index == index
                events[-1] = CallArguments(index, last.text + piece)
            case CallStarted(index, _, name):
                events.append(CallStarted(index, "", name))
            case _:
                events.append(event)
    return events, splitter.truncated


def check_order(events: list[Event]) -> None:
    """Calls come one after the other: begun, their arguments, ended."""
    begun = ended = 0
    for event in events:
        match event:
            case CallStarted(index, _, name):
                assert (index, ended) == (begun, begun)
                assert name
                begun += 1
            case CallArguments(index, _):
                assert (index, ended) == (begun - 1, begun - 1)
            case CallEnded(index):
                assert (index, ended) == (begun - 1, begun - 1)
                ended += 1
    assert begun - ended in (0, 1)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file["format"])
def test_broken_replies(file: dict[str, Any]) -> None:
    rng = random.Random(file["format"])
    marks = next(form.marks for form in FORMATS if form.name == file["format"])
    texts = [case["text"] for case in file["cases"]]
    for text in texts:
        for _ in range(ROUNDS):
            broken = mutated(text, rng.choice(texts), marks, rng)
            whole = told(broken, len(broken) or 1, file["format"], file["tools"])
            check_order(whole[0])
            for step in (1, rng.randrange(2, 9)):
                assert told(broken, step, file["format"], file["tools"]) == whole, broken
