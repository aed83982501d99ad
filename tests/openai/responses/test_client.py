"""The official client's `responses` against a real server over the fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

import openai
from candle_vllm.server import create_app
from fake_engine import CHATML, FakeEngine
from live_server import LiveServer

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = 'Let me look.\n<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def live(engine: FakeEngine, serve: Callable[..., LiveServer]) -> LiveServer:
    return serve(create_app(engine, model_names=["fake"]))


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_create(client: openai.OpenAI, engine: FakeEngine) -> None:
    response = client.responses.create(
        model="fake", input="hello", instructions="be brief", temperature=0.5, max_output_tokens=50, metadata={"a": "b"}
    )
    assert (response.status, response.output_text) == ("completed", "You said: hello")
    prompt, params = engine.submitted[-1]
    assert engine.detokenize(prompt) == "system\nbe brief\nuser\nhello\nassistant\n"
    assert (params.temperature, params.max_tokens) == (0.5, 50)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (len(prompt), 16)
    assert response.usage.input_tokens_details.cached_tokens == len(prompt) // 2
    assert (response.metadata, response.temperature, response.model) == ({"a": "b"}, 0.5, "fake")
    cut = client.responses.create(model="fake", input="hello", max_output_tokens=3)
    assert (cut.status, cut.output_text) == ("incomplete", "You")
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="fake", input="hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "You said: hello"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text


def test_tools_there_and_back(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = CALL
    first = client.responses.create(model="fake", input="hello", tools=[WEATHER])
    assert [item.type for item in first.output] == ["message", "function_call"]
    call = first.output[1]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Bern"})
    engine.answer = None
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    chained = client.responses.create(model="fake", input=[result], tools=[WEATHER], previous_response_id=first.id)
    told = engine.detokenize(engine.submitted[-1][0])
    assert "<tool_response>\nsun\n</tool_response>" in told
    by_hand: list[Any] = [{"role": "user", "content": "hello"}, *first.output, result]
    client.responses.create(model="fake", input=by_hand, tools=[WEATHER], store=False)
    assert engine.detokenize(engine.submitted[-1][0]) == told
    assert chained.previous_response_id == first.id


def test_parse(client: openai.OpenAI, engine: FakeEngine) -> None:
    class City(BaseModel):
        name: str
        people: int

    engine.answer = '{"name": "Bern", "people": 134000}'
    for parsed in (
        client.responses.parse(model="fake", input="hello", text_format=City),
        _final(client, input="hello", text_format=City),
    ):
        assert parsed.output_parsed == City(name="Bern", people=134000)
    assert engine.submitted[-1][1].form is not None
    plain = client.responses.create(model="fake", input="x", text={"format": {"type": "json_object"}})
    assert plain.text is not None and plain.text.format is not None
    assert plain.text.format.type == "json_object"


def _final(client: openai.OpenAI, **request: Any) -> Any:
    with client.responses.stream(model="fake", **request) as stream:
        for _ in stream:
            pass
        return stream.get_final_response()


def test_parsed_tools(client: openai.OpenAI, engine: FakeEngine) -> None:
    class Weather(BaseModel):
        city: str

    tool: Any = openai.pydantic_function_tool(Weather, name="weather")
    flat: Any = {"type": "function", **tool["function"]}
    engine.answer = CALL
    found: list[Any] = [
        client.responses.parse(model="fake", input="hello", tools=[flat]),
        _final(client, input="hello", tools=[flat]),
    ]
    for parsed in found:
        assert parsed.output[-1].parsed_arguments == {"city": "Bern"}


@pytest.mark.parametrize("engine", [FakeEngine(chat_templates={"default": "{# <think> #}" + CHATML})])
def test_reasoning_goes_back(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = "<think>hm</think>yes"
    first = client.responses.create(
        model="fake", input="hello", store=False, include=["reasoning.encrypted_content"], reasoning={"summary": "auto"}
    )
    thought = first.output[0]
    assert thought.type == "reasoning" and thought.content is not None
    assert [part.text for part in thought.content] == ["hm"]
    assert first.usage is not None and first.usage.output_tokens_details.reasoning_tokens == 2
    streamed = _final(client, input="hello")
    assert [item.type for item in streamed.output] == ["reasoning", "message"]
    said: list[Any] = [{"role": "user", "content": "hello"}, *first.output, {"role": "user", "content": "more"}]
    client.responses.create(model="fake", input=said)
    assert "assistant\nyes\nuser\nmore" in engine.detokenize(engine.submitted[-1][0])


def test_items_of_every_form(client: openai.OpenAI, engine: FakeEngine) -> None:
    first = client.responses.create(model="fake", input="one")
    referred: Any = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
        {"role": "user", "content": "two"},
        {"type": "item_reference", "id": first.output[0].id},
        {"id": first.output[0].id},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bern"}'},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    ]
    made = client.responses.create(model="fake", input=referred, tools=[WEATHER], tool_choice="none")
    prompt = engine.detokenize(engine.submitted[-1][0])
    assert prompt.startswith("system\nrules\nuser\ntwo\nassistant\nYou said: one\nassistant\nYou said: one\n")
    assert prompt.count("<tool_call>") == 2
    assert prompt.index("rain") < prompt.index("sun") < prompt.index("user\na\nb\n")
    listed = client.responses.input_items.list(made.id, order="asc", limit=3)
    assert len(listed.data) == 3 and listed.has_more
    everything = list(client.responses.input_items.list(made.id, order="asc", limit=2))
    assert len({item.id for item in everything}) == len(everything) == len(referred)
    assert [item.id for item in client.responses.input_items.list(made.id)] == [item.id for item in everything][::-1]
    assert [item.type for item in everything[4:8]] == ["function_call"] * 2 + ["function_call_output"] * 2


def test_a_call_that_was_cut_off_is_left_out_of_what_follows(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = f"Hm. {CALL}"
    cut = client.responses.create(model="fake", input="one", tools=[WEATHER], max_output_tokens=70)
    assert [(item.type, item.status) for item in cut.output] == [  # type: ignore[union-attr]
        ("message", "completed"),
        ("function_call", "incomplete"),
    ]
    engine.answer = None
    client.responses.create(model="fake", input="two", tools=[WEATHER], previous_response_id=cut.id)
    assert "assistant\nHm. Let me look.\nuser\ntwo\n" in engine.detokenize(engine.submitted[-1][0]).replace(
        "\n\n", "\n"
    )


def test_a_chain_of_turns(client: openai.OpenAI, engine: FakeEngine) -> None:
    made = client.responses.create(model="fake", input="turn 0", instructions="be brief")
    for turn in range(1, 5):
        made = client.responses.create(model="fake", input=f"turn {turn}", previous_response_id=made.id)
    prompt = engine.detokenize(engine.submitted[-1][0])
    assert prompt == "".join(
        f"user\nturn {turn}\n" + (f"assistant\nYou said: turn {turn}\n" if turn < 4 else "assistant\n")
        for turn in range(5)
    )
    assert len(list(client.responses.input_items.list(made.id))) == 9
    counted = client.responses.input_tokens.count(model="fake", input="turn 5", previous_response_id=made.id)
    client.responses.create(model="fake", input="turn 5", previous_response_id=made.id)
    assert counted.input_tokens == len(engine.submitted[-1][0])


def test_choices_of_tools(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = CALL
    time: Any = {**WEATHER, "name": "time"}
    choices: list[Any] = [
        "required",
        {"type": "function", "name": "weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
    ]
    for choice in choices:
        made = client.responses.create(
            model="fake", input="x", tools=[WEATHER, time], tool_choice=choice, parallel_tool_calls=False
        )
        shown = made.tool_choice if isinstance(made.tool_choice, str) else made.tool_choice.to_dict()
        assert shown == choice
        assert made.parallel_tool_calls is False
        assert engine.submitted[-1][1].form is not None
    none = client.responses.create(model="fake", input="x", tools=[WEATHER], tool_choice="none")
    assert none.output_text == CALL


def test_truncation(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.context = 200
    said: list[Any] = [{"role": "system", "content": "rules"}]
    for turn in range(20):
        said += [{"role": "user", "content": f"question {turn}"}, {"role": "assistant", "content": "answer"}]
    said.append({"role": "user", "content": "last"})
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(model="fake", input=said)
    assert refusal.value.code == "context_length_exceeded"
    made = client.responses.create(model="fake", input=said, truncation="auto", max_output_tokens=40)
    assert made.truncation == "auto"
    prompt = engine.detokenize(engine.submitted[-1][0])
    assert prompt.startswith("system\nrules\nuser\nquestion")
    assert prompt.endswith("user\nlast\nassistant\n")
    assert 100 < len(engine.submitted[-1][0]) <= 160


async def test_the_asynchronous_client(live: LiveServer, engine: FakeEngine) -> None:
    class Said(BaseModel):
        text: str

    engine.delay = 0.001
    async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:

        async def talk(number: int) -> str:
            first = await client.responses.create(model="fake", input=f"one {number}")
            async with client.responses.stream(
                model="fake", input=f"two {number}", previous_response_id=first.id
            ) as stream:
                said = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
                final = await stream.get_final_response()
            assert final.output_text == said == f"You said: two {number}"
            items = [item async for item in client.responses.input_items.list(final.id, order="asc", limit=2)]
            await client.responses.delete(first.id)
            return str(items[0].to_dict()["content"])

        told = await asyncio.gather(*(talk(number) for number in range(32)))
        assert all(f"one {number}" in text for number, text in enumerate(told))
        engine.answer = '{"text": "hi"}'
        parsed = await client.responses.parse(model="fake", input="x", text_format=Said)
        assert parsed.output_parsed == Said(text="hi")


@pytest.mark.parametrize(
    "engine",
    [FakeEngine(chat_templates={"default": "{# <think> #}{{ enable_thinking }}|{{ reasoning_effort }}" + CHATML})],
)
def test_effort_and_variables_reach_the_template(client: openai.OpenAI, engine: FakeEngine) -> None:
    made = client.responses.create(model="fake", input="x", reasoning={"effort": "low"})
    assert made.reasoning is not None and made.reasoning.effort == "low"
    assert engine.detokenize(engine.submitted[-1][0]).startswith("|low")
    client.responses.create(model="fake", input="x", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert engine.detokenize(engine.submitted[-1][0]).startswith("False|")


def test_sampling_and_more_reach_the_engine(client: openai.OpenAI, engine: FakeEngine) -> None:
    more = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "seed": 7, "cache_salt": "mine", "priority": 3}
    client.responses.create(model="fake", input="x", temperature=0.3, top_p=0.8, extra_body=more)
    params = engine.submitted[-1][1]
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.3, 0.8, 5, 0.1)
    assert (params.repetition_penalty, params.seed) == (1.2, 7)
    assert (engine.how["cache_salt"], engine.how["priority"]) == ("mine", 3)


@pytest.mark.parametrize("engine", [FakeEngine(refused_form=True)])
def test_a_form_that_cannot_be_held_is_refused(client: openai.OpenAI, engine: FakeEngine) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    strict: Any = {**WEATHER, "strict": True}
    for change, param in (({"text": form}, "text.format.schema"), ({"tools": [strict]}, "tools")):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.responses.create(model="fake", input="x", **change)
        assert refusal.value.param == param
    assert client.responses.create(model="fake", input="x", tools=[WEATHER]).status == "completed"
