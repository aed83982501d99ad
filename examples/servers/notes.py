"""An MCP server over stdio that keeps notes in memory, as a file server keeps files."""

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("notes")
NOTES = {"sea": "The sea is calm tonight.", "bread": "Flour, water, salt, time."}


@server.tool()
def list_notes() -> list[str]:
    """Names all notes."""
    return sorted(NOTES)


@server.tool()
def read_note(name: str) -> str:
    """Reads a note."""
    if name not in NOTES:
        raise ToolError(f"there is no note {name!r}; there are {', '.join(sorted(NOTES))}")
    return NOTES[name]


@server.tool()
def write_note(name: str, text: str) -> str:
    """Writes a note, in the place of an older one of that name."""
    NOTES[name] = text
    return "written"


server.run()
