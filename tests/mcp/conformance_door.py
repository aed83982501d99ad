"""An MCP server of the protocol's library behind this package's HTTP door, for the conformance suite.

usage: python conformance_door.py PORT MODULE, where MODULE holds the server as `mcp`. See .ci/mcp-conformance.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module

import uvicorn

from candle_vllm.server import BoundarySettings
from candle_vllm.server.hosts import LOOPBACK_HOSTS
from candle_vllm.server.listen import uvicorn_config
from candle_vllm.server.mcp_door import mcp_app


async def main(port: int, module: str) -> None:
    app, running = mcp_app(import_module(module).mcp, BoundarySettings(allowed_hosts=LOOPBACK_HOSTS))
    config = uvicorn_config(app)
    config.port = port
    async with running:
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
