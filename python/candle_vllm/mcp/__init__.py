"""Tools of MCP servers: configuration, one client a server, several servers as one set of named tools.

The protocol's library is loaded when the first server is reached. Must not know of conversations or HTTP servers.
"""

from candle_vllm.mcp.client import McpClient, McpTool
from candle_vllm.mcp.config import Limits, McpServer, Timeouts, parse_config, read_config
from candle_vllm.mcp.results import Outcome, ToolResult
from candle_vllm.mcp.servers import McpServers

__all__ = [
    "Limits",
    "McpClient",
    "McpServer",
    "McpServers",
    "McpTool",
    "Outcome",
    "Timeouts",
    "ToolResult",
    "parse_config",
    "read_config",
]
