"""The helpers of OpenAI's own client, `.parse()` and `.stream()`, synchronous and asynchronous, over connections."""

from __future__ import annotations

import json
from typing import Any, Literal

import pydantic
import pytest

import openai
from candle_vllm import InferenceEngine
from candle_vllm.server import create_app
from fake_engine import FakeEngine

MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]


class Person(pydantic.BaseModel):
    name: str
    age: int


class Painting(pydantic.BaseModel):
    """Paints walls."""

    color: Literal["red", "green", "blue"]
    walls: list[str]


PAINT = openai.pydantic_function_tool(Painting)
CALL = 'Now:\n<tool_call>\n{"name": "Painting", "arguments": {"color": "red", "walls": ["a", "b"]}}\n</tool_call>'


@pytest.fixture
def client(live: Any) -> Any:
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_parse_gives_the_model(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = '{"name": "Ada", "age": 36}'
    reply = client.chat.completions.parse(model="fake", messages=MESSAGES, response_format=Person)
    assert reply.choices[0].message.parsed == Person(name="Ada", age=36)
    # What the engine was held to is the model's own schema.
    form = engine.submitted[-1][1].form
    assert form is not None
    assert isinstance(form.json_schema, str)
    assert set(json.loads(form.json_schema)["properties"]) == {"name", "age"}
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="fake", messages=MESSAGES, response_format=Person, max_tokens=5)


def test_parse_gives_calls(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = CALL
    reply = client.chat.completions.parse(model="fake", messages=MESSAGES, tools=[PAINT])
    [call] = reply.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Painting(color="red", walls=["a", "b"])


def test_stream_gives_events_and_the_whole(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = '{"name": "Ada", "age": 36}'
    with client.chat.completions.stream(
        model="fake", messages=MESSAGES, response_format=Person, stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    said = "".join(event.delta for event in events if event.type == "content.delta")
    assert said == engine.answer
    assert [event.parsed for event in events if event.type == "content.done"] == [Person(name="Ada", age=36)]
    assert final.choices[0].message.parsed == Person(name="Ada", age=36)
    assert final.usage is not None
    assert final.usage.completion_tokens == len(engine.answer) + 1


def test_stream_gives_calls(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = CALL
    with client.chat.completions.stream(model="fake", messages=MESSAGES, tools=[PAINT], logprobs=True) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    [done] = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert (done.name, done.parsed_arguments) == ("Painting", Painting(color="red", walls=["a", "b"]))
    deltas = [event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(deltas) == done.arguments
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.content == "Now:"


async def test_the_same_asynchronously(live: Any, engine: FakeEngine) -> None:
    engine.answer = '{"name": "Ada", "age": 36}'
    async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        reply = await client.chat.completions.parse(model="fake", messages=MESSAGES, response_format=Person)
        assert reply.choices[0].message.parsed == Person(name="Ada", age=36)
        async with client.chat.completions.stream(model="fake", messages=MESSAGES, response_format=Person) as stream:
            said = [event.delta async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
        assert "".join(said) == engine.answer
        assert final.choices[0].message.parsed == Person(name="Ada", age=36)


def test_a_small_model_gives_the_model(smollm2_engine: InferenceEngine, serve: Any) -> None:
    class Answer(pydantic.BaseModel):
        verdict: Literal["yes", "no"]
        score: int = pydantic.Field(ge=0, le=9)

    live = serve(create_app(smollm2_engine, model_names=["smollm2"]))
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        for seed in range(3):
            reply = client.chat.completions.parse(
                model="smollm2",
                messages=[{"role": "user", "content": "Is the sea wet?"}],
                response_format=Answer,
                temperature=1,
                seed=seed,
            )
            assert isinstance(reply.choices[0].message.parsed, Answer)
