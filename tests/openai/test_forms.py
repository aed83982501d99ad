"""The form of answers and calls: what the engine is asked to hold, and what SmolLM2 then writes at temperature 1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from candle_vllm import InferenceEngine
from candle_vllm.openai import ApiError, OpenAIAdapter
from fake_engine import CHATML, FakeEngine


def tool(name: str, strict: bool = False, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema, "strict": strict}}


TOOLS = [
    tool("weather", city={"type": "string", "maxLength": 30}),
    tool("add", a={"type": "integer"}, b={"type": "integer"}),
    tool("paint", color={"enum": ["red", "green", "blue"]}),
]
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def adapter(engine: FakeEngine) -> OpenAIAdapter:
    return OpenAIAdapter(engine)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}},
            "json_schema",
            json.dumps(PERSON),
        ),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"json": PERSON}}, "json_schema", json.dumps(PERSON)),
        ({"guided_choice": ["yes", "no"]}, "choice", ("yes", "no")),
        ({"guided_grammar": 'start: "x"'}, "grammar", 'start: "x"'),
    ],
)
def test_what_is_held(
    adapter: OpenAIAdapter, engine: FakeEngine, change: dict[str, Any], field: str, value: object
) -> None:
    adapter.chat_completion({**ASK, **change})
    form = engine.submitted[-1][1].form
    assert form == engine.forms[-1]
    assert getattr(form, field) == value
    assert form is not None
    assert form.after is None


def test_a_form_begins_after_the_thinking(engine: FakeEngine) -> None:
    engine.chat_templates = {"default": CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")}
    OpenAIAdapter(engine).chat_completion({**ASK, "response_format": {"type": "json_object"}})
    form = engine.submitted[-1][1].form
    assert form is not None
    assert form.after == "</think>"


def test_calls_are_held_unless_they_cannot_and_need_not_be(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    choices: list[Any] = ["auto", "required", {"type": "function", "function": {"name": "add"}}]
    for choice in choices:
        adapter.chat_completion({**ASK, "tools": TOOLS, "tool_choice": choice})
        form = engine.submitted[-1][1].form
        assert form is not None
        assert form.grammar is not None
    adapter.chat_completion({**ASK, "tools": TOOLS, "tool_choice": "none"})
    adapter.chat_completion({**ASK, "tools": TOOLS, "ignore_eos": True})
    assert [params.form for _, params in engine.submitted[-2:]] == [None, None]
    engine.refused_form = True
    adapter.chat_completion({**ASK, "tools": TOOLS})
    assert engine.submitted[-1][1].form is None
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"tools": TOOLS, "tool_choice": "required"}, "tools"),
        ({"tools": [tool("t", strict=True)]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_regex": "("}, "guided_regex"),
    ]
    for change, param in refusals:
        with pytest.raises(ApiError) as refusal:
            adapter.chat_completion({**ASK, **change})
        assert (refusal.value.status, refusal.value.param) == (400, param)


@pytest.fixture(scope="module")
def smollm2() -> Iterator[OpenAIAdapter]:
    with InferenceEngine.builder().model_path("smollm2").build() as engine, OpenAIAdapter(engine) as adapter:
        yield adapter


def test_smollm2_calls_what_it_must(smollm2: OpenAIAdapter) -> None:
    for seed in range(20):
        request = {**ASK, "tools": TOOLS, "temperature": 1, "seed": seed, "max_tokens": 400}
        choice: Any = "required" if seed % 2 else {"type": "function", "function": {"name": "paint"}}
        answer = smollm2.chat_completion({**request, "tool_choice": choice}).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.tool_calls
        for call in answer.message.tool_calls:
            arguments = json.loads(call.function.arguments)
            [known] = [each["function"] for each in TOOLS if each["function"]["name"] == call.function.name]
            assert list(arguments) == known["parameters"]["required"]
        if not seed % 2:
            assert [call.function.name for call in answer.message.tool_calls] == ["paint"]


def test_smollm2_that_may_call_makes_no_broken_call(smollm2: OpenAIAdapter) -> None:
    known = {each["function"]["name"]: each["function"]["parameters"]["required"] for each in TOOLS}

    async def one(seed: int) -> None:
        words = "Say <tool_call> and {, then call paint." if seed % 2 else "Paint it blue, please."
        messages = [{"role": "user", "content": words}]
        request = {"messages": messages, "tools": TOOLS, "temperature": 1, "seed": seed, "max_tokens": 150}
        answer = (await smollm2.achat_completion(request)).choices[0]
        for call in answer.message.tool_calls or ():
            assert call.function.name in known
            if answer.finish_reason != "length":
                assert list(json.loads(call.function.arguments)) == known[call.function.name]
        assert answer.finish_reason == "length" or "<tool_call>" not in (answer.message.content or "")

    async def sixteen() -> None:
        await asyncio.gather(*map(one, range(16)))

    asyncio.run(sixteen())


def test_smollm2_answers_in_the_form_asked_for(smollm2: OpenAIAdapter) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}
    for seed in range(5):
        request = {**ASK, "temperature": 1, "seed": seed, "max_tokens": 200, "response_format": form}
        said = json.loads(smollm2.chat_completion(request).choices[0].message.content or "")
        assert isinstance(said["name"], str)
        assert isinstance(said["age"], int)
        streamed = "".join(c.choices[0].delta.content or "" for c in smollm2.chat_completion_stream(request))
        assert json.loads(streamed) == said


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"uniqueItems": True, "type": "array"}}},
        {"$ref": "https://elsewhere.example/schema"},
        {"type": "nonsense"},
        {"type": "string", "pattern": "(?=a)b"},
    ],
)
def test_what_cannot_be_held_is_refused(smollm2: OpenAIAdapter, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    with pytest.raises(ApiError) as refusal:
        smollm2.chat_completion({**ASK, "response_format": form})
    assert (refusal.value.status, refusal.value.param) == (400, "response_format.json_schema.schema")
