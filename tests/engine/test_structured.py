"""Structured output through the Python API: a real model at temperature 1 that would never write it by itself."""

import json
import re
import time
from typing import Any

import jsonschema
import pytest

from candle_vllm import ConfigError, GenerationParams, InferenceEngine, StructuredOutput, Trigger

TREE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}},
    "required": ["v"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "integer", "minimum": 10, "maximum": 20},
    {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
    {"type": "string", "format": "date"},
    {"enum": ["red", 7, None, 2.5, {"a": ["b"]}]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"const": 1}, {"type": "null"}], "items": False, "minItems": 2},
    {
        "type": "object",
        "properties": {
            "größe": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 50},
            "x/y": {"const": "z"},
        },
        "required": ["x/y"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "null"}},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    {"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 5}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
]


def test_finished_replies_validate(smollm2_engine: InferenceEngine) -> None:
    params = [
        GenerationParams(max_tokens=120, seed=seed, json_schema=schema) for schema in SCHEMAS for seed in range(2)
    ]
    outputs = smollm2_engine.generate(["Some JSON: "] * len(params), params)
    finished = 0
    for asked, output in zip(params, outputs, strict=True):
        if output.finish_reason == "length":
            continue
        assert output.finish_reason == "stop", output.stop_reason
        finished += 1
        assert isinstance(asked.json_schema, str)
        schema = json.loads(asked.json_schema)
        jsonschema.validate(json.loads(output.text), schema, cls=jsonschema.Draft202012Validator)
    assert finished >= len(params) * 3 // 4


def test_every_form(smollm2_engine: InferenceEngine) -> None:
    def say(**form: Any) -> str:
        output = smollm2_engine.generate("Well, ", GenerationParams(max_tokens=80, seed=5, **form))
        assert output.finish_reason == "stop", output.stop_reason
        return output.text

    assert re.fullmatch(r"[0-9]{3}-[a-f]{2}", say(regex=r"[0-9]{3}-[a-f]{2}"))
    assert say(choice=["yes", "no, never"]) in ("yes", "no, never")
    assert re.fullmatch(r"(ab|c){2}", say(grammar='start: x x\nx: "ab" | "c"'))
    assert re.fullmatch(r"(ab|c){2}", say(grammar='root ::= x x\nx ::= "ab" | "c"'))
    # When free text comes to what begins a form is the model's to say: some seeds do within so many tokens.
    pick = Trigger(begin=" a", form=StructuredOutput(choice=["<1>", "<2>"]))
    for asked, expected in (
        (StructuredOutput(regex="[0-9]{2}", after="."), r"[^.]*\.[0-9]{2}"),
        (StructuredOutput(triggers=[pick], least=1, most=1), r"(?s)(?!.* a.* a).* a<[12]>"),
    ):
        params = [GenerationParams(max_tokens=120, seed=seed, structured_output=asked) for seed in range(16)]
        outputs = smollm2_engine.generate(["Well, "] * len(params), params)
        texts = [output.text for output in outputs if output.finish_reason == "stop"]
        assert len(texts) >= 3
        assert [text for text in texts if not re.fullmatch(expected, text)] == []


@pytest.mark.parametrize(
    ("form", "field", "said"),
    [
        (
            {"json_schema": {"properties": {"a": {"uniqueItems": True}}}},
            "json_schema",
            "`uniqueItems` at #/properties/a",
        ),
        ({"json_schema": "{"}, "json_schema", "JSON"),
        ({"regex": "a(?=b)"}, "regex", "look-around"),
        ({"grammar": "root ::= missing"}, "grammar", "missing"),
    ],
)
def test_what_is_not_held_is_refused(
    smollm2_engine: InferenceEngine, form: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        smollm2_engine.generate("x", GenerationParams(max_tokens=5, **form))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "form",
    [
        {"json_schema": {"$ref": "#"}},
        {"regex": "((a{1,1000}){1,1000}){1,1000}"},
        {"regex": "[ab]*a[ab]{40}"},
        {"json_schema": {"enum": [f"{n:0>40}" for n in range(8000)]}},
        {"grammar": 'start: e\ne: e e | "a" | e e e | '},
    ],
)
def test_hostile_forms_take_no_time(smollm2_engine: InferenceEngine, form: dict[str, Any]) -> None:
    started = time.monotonic()
    try:
        output = smollm2_engine.generate("x", GenerationParams(max_tokens=4, seed=1, **form))
    except ConfigError:
        output = None
    # Compiling is bounded by a second, waiting for it too; the rest is this machine's.
    assert time.monotonic() - started < 10
    assert output is None or output.finish_reason in ("stop", "length", "error")
