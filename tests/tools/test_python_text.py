"""Python literals read as a stream and told as JSON, against Python's own reading of them."""

import json
import random
from typing import Any

import pytest

from candle_vllm.pieces import Reader
from candle_vllm.tools import python_text


def read(source: str, step: int = 1_000_000) -> str:
    """The JSON of a literal that is fed in pieces."""
    reader = Reader()
    told: list[str] = []
    parse = python_text.value(reader, told.append)
    text = f"{source},"
    for at in range(0, len(text), step):
        reader.feed(text[at : at + step])
        next(parse, None)
    reader.close()
    next(parse, None)
    assert reader.rest() == ","
    return "".join(told)


STRINGS = [
    "",
    "x",
    "it's",
    'say "hi"',
    "both ' and \"",
    "a\nb\tc\\",
    "naïve 東京 😀",
    "{[(",
    "\x00\x7f",
    "\\n",
    "a,b:c",
]


def literal(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(9 if depth < 4 else 6):
        case 0:
            return rng.choice(STRINGS)
        case 1:
            return rng.randrange(-(10**20), 10**20)
        case 2:
            return rng.choice([0.0, -1.5, 1e-9, 1e300, 123456.789])
        case 3:
            return rng.random() < 0.5
        case 4:
            return None
        case 5:
            return rng.randrange(10)
        case 6:
            return [literal(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 7:
            return tuple(literal(rng, depth + 1) for _ in range(rng.randrange(4)))
        case _:
            return {rng.choice(STRINGS): literal(rng, depth + 1) for _ in range(rng.randrange(4))}


def test_what_python_writes_is_read() -> None:
    rng = random.Random(11)
    for _ in range(2_000):
        value = literal(rng)
        source = repr(value)
        expected = json.loads(json.dumps(value))
        assert json.loads(read(source)) == expected, source
        assert read(source, 1) == read(source), source


def test_what_json_writes_is_read() -> None:
    rng = random.Random(12)
    for _ in range(1_000):
        value = json.loads(json.dumps(literal(rng)))
        for ascii_ in (True, False):
            assert json.loads(read(json.dumps(value, ensure_ascii=ascii_))) == value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("0x10", 16),
        ("0b11", 3),
        ("1_000", 1000),
        ("+5", 5),
        ("1.", 1.0),
        ("-.5", -0.5),
        ("007", 7),
        ("-07", -7),
        ("0.0", 0.0),
        ("1__0", "1__0"),
        ("nan", "nan"),
        ("x + y", "x + y"),
        ("f(1, [2])", "f(1, [2])"),
        ("Color.RED", "Color.RED"),
        ("r'\\d'", "\\d"),
        ("rb'\\d'", "\\d"),
        ("F'{x}'", "{x}"),
        ("'\\\n'", ""),
        ("'\\x4'", "\\x4"),
        ("'\\u12'", "\\u12"),
        ("'\\U00110000'", "\\U00110000"),
        ("'\\ud83d\\ude00'", "😀"),
        ("'''a''b'''", "a''b"),
        ("{1, 'a'}", [1, "a"]),
        ("{1: 2, None: 3, True: 4}", {"1": 2, "null": 3, "true": 4}),
        ("{'a': 1, 'b'}", {"a": 1, "b": None}),
        ("[1, , 2]", [1, 2]),
        ("[[1}, 2]", [[1], 2]),
        ("__import__('os').system('x')", "__import__('os').system('x')"),
    ],
)
def test_forms(source: str, value: Any) -> None:
    assert json.loads(read(source)) == value
    assert read(source, 1) == read(source)


def test_deep_brackets_are_told_as_source() -> None:
    deep = "[" * 200 + "]" * 200
    value = json.loads(read(deep))
    depth = 0
    while isinstance(value, list):
        value, depth = value[0], depth + 1
    assert depth == 64
    assert value == "[" * 136 + "]" * 136
