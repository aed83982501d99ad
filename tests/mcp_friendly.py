"""A small MCP server over stdio: a shelf of things, kept in memory. `python mcp_friendly.py`."""

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("shelf")
SHELF: dict[str, int] = {"apples": 3, "pears": 5, "plums": 7}


@server.tool()
def count(thing: str) -> int:
    """Tells how many of a thing are on the shelf."""
    if thing not in SHELF:
        raise ToolError(f"there are no {thing}; there are {', '.join(SHELF)}")
    return SHELF[thing]


@server.tool()
def put(thing: str, number: int) -> str:
    """Puts more of a thing on the shelf."""
    SHELF[thing] = SHELF.get(thing, 0) + number
    return f"now there are {SHELF[thing]} {thing}"


if __name__ == "__main__":
    server.run()
