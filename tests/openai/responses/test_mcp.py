"""Tools of MCP servers that are run here, asked for by their servers' labels: a real server and a scripted model."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import openai
from candle_vllm import InferenceEngine
from candle_vllm.mcp import McpServer, McpServers, Timeouts
from candle_vllm.server import McpSettings, create_app
from responses_facts import check
from scripted import ScriptedEngine, told

FRIENDLY = str(Path(__file__).parents[2] / "mcp_friendly.py")
SHELF: Any = {"type": "mcp", "server_label": "shelf", "require_approval": "never"}
SCRIPT = (
    [("count", {"thing": "apples"}), ("count", {"thing": "stones"})],
    lambda prompt: [("put", {"thing": "apples", "number": int(told(prompt, 2))})],
    lambda prompt: f"Well, {told(prompt)}.",
)
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


@pytest.fixture
async def servers() -> AsyncIterator[McpServers]:
    limits = Timeouts(connect=20, call=20)
    found = McpServers([McpServer(name="shelf", command=sys.executable, args=[FRIENDLY], timeouts=limits)])
    yield found
    await found.aclose()


def served(servers: McpServers, *script: Any, **settings: Any) -> tuple[ScriptedEngine, openai.AsyncOpenAI]:
    engine = ScriptedEngine(*script)
    app = create_app(engine, model_names=["m"], mcp=McpSettings(servers=servers, **settings))
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=60)
    return engine, openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="x", max_retries=0, http_client=http)


async def test_a_response_of_three_turns(servers: McpServers) -> None:
    _, client = served(servers, *SCRIPT)
    async with client:
        made = await client.responses.create(model="m", input="How many?", tools=[SHELF])
        assert (made.status, made.output_text) == ("completed", "Well, now there are 6 apples.")
        calls = [item.to_dict() for item in made.output if item.type == "mcp_call"]
        assert [(call["name"], call["status"], call["turn"], call["output"]) for call in calls] == [
            ("count", "completed", 1, "3"),
            (
                "count",
                "failed",
                1,
                "Error: Error executing tool count: there are no stones; there are apples, pears, plums",
            ),
            ("put", "completed", 2, "now there are 6 apples"),
        ]
        assert {call["server_label"] for call in calls} == {"shelf"}
        assert calls[0]["error"] is None
        error: Any = calls[1]["error"]
        assert (error["type"], error["content"]) == ("mcp_tool_execution_error", calls[1]["output"])
        assert made.output[-1].type == "message"
        assert made.usage is not None and made.usage.output_tokens > 100


async def test_streams_say_what_whole_replies_do(servers: McpServers) -> None:
    def forget(response: dict[str, Any]) -> list[dict[str, Any]]:
        return [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]

    _, client = served(
        servers,
        "Let me look.\n" + '<tool_call>{"name": "count", "arguments": {"thing": "pears"}}</tool_call>',
        lambda prompt: f"There are {told(prompt)}.",
    )
    async with client:
        events = await client.responses.create(model="m", input="How many?", tools=[SHELF], stream=True)
        last = check([event.to_dict() async for event in events])
        assert [item["type"] for item in last["output"]] == ["message", "mcp_call", "message"]
        whole = await client.responses.create(model="m", input="How many?", tools=[SHELF])
        assert forget(whole.to_dict()) == forget(last)
        _, other = served(servers, *SCRIPT)
        async with other, other.responses.stream(model="m", input="How many?", tools=[SHELF]) as stream:
            kinds = [event.type async for event in stream]
        assert kinds.count("response.mcp_call.completed") == 2 and kinds.count("response.mcp_call.failed") == 1


async def test_a_chain_goes_on_from_calls_that_were_made(servers: McpServers) -> None:
    engine, client = served(servers, *SCRIPT)
    async with client:
        first = await client.responses.create(model="m", input="How many?", tools=[SHELF])
        seen = engine.prompts[-1]
        await client.responses.create(model="m", input="And now?", tools=[SHELF], previous_response_id=first.id)
        # What the model saw in its last turn is how the prompt begins: the prefix cache is warm.
        assert engine.prompts[-1].startswith(seen)
        assert engine.prompts[-1].endswith("Well, now there are 6 apples.\nuser\nAnd now?\nassistant\n")
        by_hand: list[Any] = [
            {"role": "user", "content": "How many?"},
            *first.output,
            {"role": "user", "content": "So?"},
        ]
        await client.responses.create(model="m", input=by_hand, tools=[SHELF])
        assert engine.prompts[-1].startswith(seen)
        listed = [item async for item in client.responses.input_items.list(first.id)]
        assert len(listed) == 1


async def test_the_clients_functions_end_the_response(servers: McpServers) -> None:
    _, client = served(
        servers,
        [("count", {"thing": "apples"}), ("weather", {"city": "Bern"})],
        lambda prompt: f"{told(prompt, 2)} apples, and {told(prompt)}.",
    )
    async with client:
        made = await client.responses.create(model="m", input="x", tools=[SHELF, WEATHER])
        assert [item.type for item in made.output] == ["mcp_call", "function_call"]
        call = made.output[1]
        assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Bern"}
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
        done = await client.responses.create(
            model="m", input=[result], previous_response_id=made.id, tools=[SHELF, WEATHER]
        )
        assert done.output_text == "3 apples, and sun."


async def test_bounds_and_what_is_allowed(servers: McpServers) -> None:
    _, client = served(servers, *SCRIPT)
    async with client:
        only: Any = {**SHELF, "allowed_tools": ["count"]}
        made = await client.responses.create(model="m", input="x", tools=[only])
        refused = [item.to_dict() for item in made.output if item.type == "mcp_call"][-1]
        assert (refused["name"], refused["status"]) == ("put", "failed")
        nowhere: Any = [{**SHELF, "server_label": "nowhere"}]
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.responses.create(model="m", input="x", tools=nowhere)
        assert "nowhere" in refusal.value.message and refusal.value.param == "tools"
        unasked = await client.responses.create(model="m", input="x", max_output_tokens=200)
        assert [item.type for item in unasked.output] == ["message"]
    _, looping = served(servers, [("count", {"thing": "apples"})])
    async with looping:
        made = await looping.responses.create(model="m", input="x", tools=[SHELF])
        assert made.status == "incomplete" and made.incomplete_details is not None
        assert made.incomplete_details.to_dict()["bound"] in ("loop", "max_turns")


async def test_no_more_calls_than_asked_for(servers: McpServers) -> None:
    _, client = served(servers, *SCRIPT)
    async with client:
        made = await client.responses.create(model="m", input="x", tools=[SHELF], max_tool_calls=1)
        calls = [item.to_dict() for item in made.output if item.type == "mcp_call"]
        assert [call["status"] for call in calls] == ["completed", "failed", "failed"]
        assert str(calls[1]["output"]).startswith("Error: all 1 calls")
        assert made.max_tool_calls == 1
    _, stubborn = served(servers, lambda prompt: [("count", {"thing": f"x{prompt.count('user')}"})])
    async with stubborn:
        made = await stubborn.responses.create(model="m", input="x", tools=[SHELF], max_tool_calls=1)
        assert len([item for item in made.output if item.type == "mcp_call"]) == 3
        assert made.incomplete_details is not None and made.incomplete_details.to_dict()["bound"] == "loop"


async def test_in_the_background_and_by_default(servers: McpServers) -> None:
    _, client = served(servers, *SCRIPT, by_default=True)
    async with client:
        stream = await client.responses.create(model="m", input="x", background=True, stream=True)
        last = check([event.to_dict() async for event in stream])
        assert [item["type"] for item in last["output"]] == ["mcp_call", "mcp_call", "mcp_call", "message"]
        assert (await client.responses.retrieve(last["id"])).to_dict()["output"] == last["output"]


async def test_a_real_model_calls_the_tool_that_was_chosen(
    servers: McpServers, smollm2_engine: InferenceEngine
) -> None:
    app = create_app(smollm2_engine, model_names=["smollm2"], mcp=McpSettings(servers=servers))
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=120)
    choice: Any = {"type": "mcp", "server_label": "shelf", "name": "count"}
    async with openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key="x", max_retries=0, http_client=http
    ) as client:
        options: Any = {"model": "smollm2", "temperature": 0, "max_output_tokens": 120, "tools": [SHELF]}
        events = await client.responses.create(
            input="How many apples are on the shelf?", tool_choice=choice, max_tool_calls=1, stream=True, **options
        )
        last = check([event.to_dict() async for event in events])
        [first, *_] = [item for item in last["output"] if item["type"] == "mcp_call"]
        assert first["name"] == "count"
        assert "thing" in json.loads(first["arguments"])
        made = await client.responses.create(input="Thank you.", previous_response_id=last["id"], **options)
        assert made.usage is not None and made.usage.input_tokens_details.cached_tokens > 64


async def test_hosted_tools_of_openai_agents(servers: McpServers) -> None:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    _, client = served(
        servers,
        [("count", {"thing": "apples"}), ("count", {"thing": "stones"})],
        lambda prompt: f"There are {told(prompt, 2)}.",
    )
    async with client:
        model = agents.OpenAIResponsesModel(model="m", openai_client=client)
        agent = agents.Agent(name="a", model=model, tools=[agents.HostedMCPTool(tool_config=SHELF)])
        whole = await agents.Runner.run(agent, "How many?")
        assert whole.final_output == "There are 3."
        assert [type(item).__name__ for item in whole.new_items] == ["ToolCallItem"] * 2 + ["MessageOutputItem"]
        streamed = agents.Runner.run_streamed(agent, "How many?")
        assert {event.type async for event in streamed.stream_events()} >= {"raw_response_event"}
        assert streamed.final_output == "There are 3."
        again = await agents.Runner.run(agent, [*whole.to_input_list(), {"role": "user", "content": "Really?"}])
        assert again.final_output == "There are 3."
