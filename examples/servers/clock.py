"""An MCP server over stdio that tells the time."""

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("clock")


@server.tool()
def time_in(zone: str) -> str:
    """Tells the time in a zone such as Europe/Paris."""
    try:
        return datetime.now(ZoneInfo(zone)).isoformat(timespec="seconds")
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ToolError(f"there is no time zone {zone!r}") from error


server.run()
