"""Plain text typed by the kinds of values that a schema allows."""

import json

import pytest

from candle_vllm.tools.typed_text import to_json


@pytest.mark.parametrize(
    ("text", "kinds", "value"),
    [
        ("3", "integer", 3),
        (" 3\n", "integer", 3),
        ("3.0", "integer", 3.0),
        ("3.5", "integer", "3.5"),
        ("3", "number", 3),
        ("1e3", "number", 1000.0),
        ("three", "integer", "three"),
        ("true", "boolean", True),
        ("True", "boolean", True),
        ("yes", "boolean", "yes"),
        ("None", "null", None),
        ("null", "null string", None),
        ("null", "string", "null"),
        ("3", "string", "3"),
        ("3", "string integer", 3),
        ("x", "string integer", "x"),
        ("", "integer", ""),
        ("[1, 2]", "array", [1, 2]),
        ("['a', None, (1,)]", "array", ["a", None, [1]]),
        ('{"a": {"b": []}}', "object", {"a": {"b": []}}),
        ("{'a': True, 'b': .5}", "object", {"a": True, "b": 0.5}),
        ("[1", "array", "[1"),
        ("[1] and more", "array", "[1] and more"),
        ("{a: 1}", "array", "{a: 1}"),
        ("NaN", "number", "NaN"),
        ("Infinity", "number", "Infinity"),
        ("12345678901234567890123", "integer", 12345678901234567890123),
        ("3", "", 3),
        ("true", "", True),
        ("[]", "", []),
        ("text", "", "text"),
        ('"quoted"', "", '"quoted"'),
        ("  kept  ", "", "  kept  "),
    ],
)
def test_values(text: str, kinds: str, value: object) -> None:
    read = json.loads(to_json(text, frozenset(kinds.split())))
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "(" * 100_000, "{'a':" * 50_000, "9" * 100_000, "-" * 70_000, "[1," * 30_000]
)
def test_hostile_text_is_a_string(text: str) -> None:
    assert json.loads(to_json(text, frozenset(("array", "object", "number")))) == text
