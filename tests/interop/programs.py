"""Programs written for OpenAI, unchanged: each answers and calls a tool. usage: programs.py NAME URL"""

from __future__ import annotations

import asyncio
import sys
from typing import Any


def langchain(url: str, **how: Any) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    model = ChatOpenAI(model="fake", base_url=url, api_key=SecretStr("none"), max_retries=0, **how)
    bound = model.bind_tools([weather])
    question = HumanMessage("Weather in Bern?")
    asked: Any = bound.invoke([question])
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Bern"})]
    result = ToolMessage(weather.invoke(asked.tool_calls[0]["args"]), tool_call_id=asked.tool_calls[0]["id"])
    assert bound.invoke([question, asked, result]).text == "It is sunny in Bern."
    pieces: Any = None
    for piece in bound.stream([question]):
        pieces = piece if pieces is None else pieces + piece
    assert pieces.tool_calls[0]["args"] == {"city": "Bern"}


def langchain_responses(url: str) -> None:
    langchain(url, use_responses_api=True)


def litellm_responses(url: str) -> None:
    import litellm

    ask: dict[str, Any] = {"model": "openai/fake", "api_base": url, "api_key": "none", "input": "Weather in Bern?"}
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    made: Any = litellm.responses(**ask, tools=[tool])
    assert made.output[-1].name == "weather"
    events: Any = litellm.responses(**ask, tools=[tool], stream=True)
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def litellm_(url: str) -> None:
    import litellm

    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    ask: dict[str, Any] = {
        "model": "openai/fake",
        "base_url": url,
        "api_key": "none",
        "messages": [{"role": "user", "content": "Weather in Bern?"}],
        "tools": [tool],
        "num_retries": 0,
    }
    message: Any = litellm.completion(**ask).choices[0].message
    assert message.tool_calls[0].function.arguments == '{"city": "Bern"}'
    said = [
        *ask["messages"],
        message.model_dump(),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"},
    ]
    assert litellm.completion(**{**ask, "messages": said}).choices[0].message.content == "It is sunny in Bern."
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(**{**ask, "messages": said}, stream=True)
    ]
    assert "".join(pieces) == "It is sunny in Bern."


def pydantic_ai(url: str) -> None:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    _pydantic_agent(OpenAIChatModel("fake", provider=OpenAIProvider(base_url=url, api_key="none")))


def pydantic_ai_responses(url: str) -> None:
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    _pydantic_agent(OpenAIResponsesModel("fake", provider=OpenAIProvider(base_url=url, api_key="none")))


def _pydantic_agent(model: Any) -> None:
    from pydantic_ai import Agent

    heard = []
    agent = Agent(model)

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        heard.append(city)
        return "sunny"

    assert agent.run_sync("Weather in Bern?").output == "It is sunny in Bern."
    assert heard == ["Bern"]


def openai_agents(url: str) -> None:
    from agents import OpenAIChatCompletionsModel

    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    asyncio.run(_agent(client, OpenAIChatCompletionsModel(model="fake", openai_client=client)))


def openai_agents_responses(url: str) -> None:
    from agents import OpenAIResponsesModel

    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    asyncio.run(_agent(client, OpenAIResponsesModel(model="fake", openai_client=client)))


async def _agent(client: Any, model: Any) -> None:
    """An agent that calls a tool: whole, streamed, and gone on from by a response's id where the model can."""
    from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)
    heard = []

    @function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        heard.append(city)
        return "sunny"

    agent = Agent(name="weather", instructions="Answer.", model=model, tools=[weather])
    async with client:
        assert (await Runner.run(agent, "Weather in Bern?")).final_output == "It is sunny in Bern."
        streamed = Runner.run_streamed(agent, "Weather in Bern?")
        kinds = {event.type async for event in streamed.stream_events()}
        assert {"raw_response_event", "run_item_stream_event"} <= kinds
        assert streamed.final_output == "It is sunny in Bern."
        if isinstance(model, OpenAIResponsesModel):
            again = agent.clone(model_settings=ModelSettings(store=True, top_logprobs=2, parallel_tool_calls=False))
            first = await Runner.run(again, "Weather in Bern?", auto_previous_response_id=True)
            assert first.last_response_id
            went_on = await Runner.run(again, "And now?", previous_response_id=first.last_response_id)
            assert went_on.final_output == "It is sunny in Bern."
            assert len(heard) == 3
    assert set(heard) == {"Bern"}


PROGRAMS = {
    "langchain": langchain,
    "litellm": litellm_,
    "pydantic_ai": pydantic_ai,
    "openai_agents": openai_agents,
    "openai_agents_responses": openai_agents_responses,
    "langchain_responses": langchain_responses,
    "litellm_responses": litellm_responses,
    "pydantic_ai_responses": pydantic_ai_responses,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2])
