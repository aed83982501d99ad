"""Programs written for OpenAI, unchanged: each answers and calls a tool. usage: programs.py NAME URL"""

from __future__ import annotations

import asyncio
import sys
from typing import Any


def langchain(url: str) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    model = ChatOpenAI(model="fake", base_url=url, api_key=SecretStr("none"), max_retries=0)
    bound = model.bind_tools([weather])
    question = HumanMessage("Weather in Bern?")
    asked: Any = bound.invoke([question])
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Bern"})]
    result = ToolMessage(weather.invoke(asked.tool_calls[0]["args"]), tool_call_id=asked.tool_calls[0]["id"])
    assert bound.invoke([question, asked, result]).content == "It is sunny in Bern."
    pieces: Any = None
    for piece in bound.stream([question]):
        pieces = piece if pieces is None else pieces + piece
    assert pieces.tool_calls[0]["args"] == {"city": "Bern"}


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
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    heard = []
    agent = Agent(OpenAIChatModel("fake", provider=OpenAIProvider(base_url=url, api_key="none")))

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        heard.append(city)
        return "sunny"

    assert agent.run_sync("Weather in Bern?").output == "It is sunny in Bern."
    assert heard == ["Bern"]


def openai_agents(url: str) -> None:
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

    import openai

    set_tracing_disabled(True)
    heard = []

    @function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        heard.append(city)
        return "sunny"

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            model = OpenAIChatCompletionsModel(model="fake", openai_client=client)
            agent = Agent(name="weather", instructions="Answer.", model=model, tools=[weather])
            return str((await Runner.run(agent, "Weather in Bern?")).final_output)

    assert asyncio.run(run()) == "It is sunny in Bern."
    assert heard == ["Bern"]


PROGRAMS = {"langchain": langchain, "litellm": litellm_, "pydantic_ai": pydantic_ai, "openai_agents": openai_agents}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2])
