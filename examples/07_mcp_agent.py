"""An agent with two MCP servers, one for notes and one for the time. Any of an `mcp.json` may stand in their place.

Needs the extra: pip install 'candle-vllm[mcp]'.
"""

import asyncio
import sys
from pathlib import Path

from candle_vllm import ConversationOptions, ResponsesSession
from candle_vllm.conversations import PendingCall

SERVERS = Path(__file__).parent / "servers"


def approve(call: PendingCall) -> bool | str:
    """Reading is free; writing is not for this agent."""
    return True if call.name != "write_note" else "Notes are read-only here."


async def main() -> None:
    builder = ResponsesSession.builder().model_path("smollm2")
    for name in ("notes", "clock"):
        builder.add_mcp_server(name, command=sys.executable, args=[str(SERVERS / f"{name}.py")])
    async with builder.build() as session:
        print("tools:", [tool["function"]["name"] for tool in await session.alist_openai_tools()])
        print("notes:", (await session.acall_tool("notes", "list_notes")).text)
        print("missing:", (await session.acall_tool("notes", "read_note", {"name": "nothing"})).text)
        options = ConversationOptions(
            max_turns=5, approve=approve, request={"temperature": 0, "max_tokens": 60, "seed": 1}
        )
        result = await session.arun_conversation("What is in my note about the sea?", options)
        for call in result.tool_calls_executed:
            print(f"{call.server}: {call.name}({call.arguments}) -> {call.result.text}")
        print(result.finish_reason, repr(result.final_message))
        print([(status.name, status.state, status.tools) for status in session.server_status()])


asyncio.run(main())
