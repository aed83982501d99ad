"""A model that another agent uses by MCP: `candle-vllm mcp-serve`, started as an agent would start it.

Needs the extra: pip install 'candle-vllm[mcp]'.
"""

import asyncio
import os
import sys

from candle_vllm.mcp import McpClient


async def main() -> None:
    # Servers inherit few variables; where an installed package is found needs none.
    where = {"PYTHONPATH": os.pathsep.join(sys.path)}
    async with McpClient.stdio(sys.executable, "-m", "candle_vllm", "mcp-serve", "smollm2", env=where) as model:
        print("tools:", [tool.name for tool in await model.list_tools()])
        question = {"messages": [{"role": "user", "content": "Name three seas."}], "temperature": 0, "max_tokens": 60}
        answer = await model.call_tool("chat", question)
        print(answer.text)
        print(answer.structured)
        print((await model.call_tool("generate", {"prompt": "The sea is", "max_tokens": 0})).text)


asyncio.run(main())
