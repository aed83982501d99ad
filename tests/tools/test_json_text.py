"""JSON scanned as it is written: verbatim, whatever its layout, in any pieces, with the two mended slips."""

import json
import random
from typing import Any

import pytest

from candle_vllm.pieces import EndOfReply, Reader
from candle_vllm.tools import json_text


def read(text: str, ends: tuple[str, ...] = (), step: int = 1_000_000) -> tuple[str, str]:
    """The value that the text begins with, and what is left."""
    reader = Reader()
    told: list[str] = []
    parse = json_text.value(reader, told.append, ends)
    for at in range(0, len(text), step):
        reader.feed(text[at : at + step])
        next(parse, None)
    reader.close()
    next(parse, None)
    return "".join(told), reader.rest()


def anything(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(6 if depth < 5 else 4):
        case 0:
            return rng.choice(["", 'a "b" \\', "}]{[", "</end>", "\n\t", "東京", "\\u0041"])
        case 1:
            return rng.choice([0, -1, 1.5, 1e30])
        case 2:
            return rng.choice([True, False, None])
        case 3:
            return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {f"k{at}": anything(rng, depth + 1) for at in range(rng.randrange(4))}


def test_values_are_verbatim() -> None:
    rng = random.Random(5)
    for _ in range(1_000):
        value = {"a": anything(rng)} if rng.random() < 0.5 else [anything(rng)]
        text = json.dumps(value, indent=rng.choice([None, 1, "\t"]), ensure_ascii=rng.random() < 0.5)
        for step in (1, 3, 1_000_000):
            assert read(f"{text} rest", ("</end>",), step) == (text, " rest")


@pytest.mark.parametrize(
    ("text", "value", "rest"),
    [
        ("12, 3", "12", ", 3"),
        ("true}", "true", "}"),
        ("-1.5e3</end>", "-1.5e3", "</end>"),
        ('"a</end>" x', '"a</end>"', " x"),
        ('{"a": "x\ny\tz"}', '{"a": "x\\ny\\tz"}', ""),
        ('{"a": "x\\\ny"}', '{"a": "x\\\\ny"}', ""),
        ('{"a": [1, {"b": 2</end>', '{"a": [1, {"b": 2}]}', "</end>"),
        ('{"a": 1] x', '{"a": 1]', " x"),
    ],
)
def test_where_values_end(text: str, value: str, rest: str) -> None:
    for step in (1, 1_000_000):
        assert read(text, ("</end>",), step) == (value, rest)


@pytest.mark.parametrize("text", ["{", '{"a', '"a\\', "[1, 2", '{"a": "</end>'])
def test_a_value_may_be_cut_off(text: str) -> None:
    with pytest.raises(EndOfReply):
        read(text, ("</end>",))


def test_strings_say_what_they_say() -> None:
    assert json_text.decoded('a \\"b\\" \\u00e9 \\ud83d\\ude00') == 'a "b" é 😀'
    assert json_text.decoded("broken \\x") == "broken \\x"
    assert json.loads(f'"{json_text.quoted(chr(0) + chr(34) + "é")}"') == '\x00"é'
