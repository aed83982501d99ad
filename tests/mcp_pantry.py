"""An MCP server over stdio whose tools leave a small model no way to err: a pantry. `python mcp_pantry.py`."""

from typing import Annotated, Literal

from mcp.server.mcpserver import MCPServer
from pydantic import Field

server = MCPServer("pantry")
Thing = Literal["apples", "pears", "plums"]
STOCK: dict[str, int] = {"apples": 3, "pears": 5, "plums": 7}
PRICES: dict[str, int] = {"apples": 20, "pears": 35, "plums": 15}


@server.tool()
def stock(thing: Thing) -> int:
    """Tells how many of a thing there are."""
    return STOCK[thing]


@server.tool()
def price(thing: Thing) -> int:
    """Tells what one of a thing costs, in cents."""
    return PRICES[thing]


@server.tool()
def order(thing: Thing, number: Annotated[int, Field(ge=1, le=99)]) -> str:
    """Orders more of a thing."""
    return f"{number} more {thing} are ordered"


if __name__ == "__main__":
    server.run()
