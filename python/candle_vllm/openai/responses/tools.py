"""The tools of a request: the client's functions, those of MCP servers that are set up here, and which is to be called.

Must not know how either is called.
"""

from __future__ import annotations

from typing import Any

from candle_vllm.generation import ServerTools, ToolUse
from candle_vllm.openai.errors import ApiError, invalid, unsupported
from candle_vllm.openai.responses.types import NamedTool, PromptRequest, Tool, ToolChoice

__all__ = ["server_tools", "tool_use"]


def tool_use(request: PromptRequest) -> ToolUse | None:
    """The client's functions, and whether one of all tools must be called; None where none may be."""
    choice, given = request.tool_choice, request.tools or ()
    for at, tool in enumerate(given):
        if tool.type not in ("function", "mcp"):
            raise _no_such_tool(f"tools[{at}].type", tool.type)
    if not given:
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are specified.")
        return None
    if choice == "none":
        return None
    functions = [_function(tool) for tool in given if tool.type == "function"]
    parallel = request.parallel_tool_calls is not False
    if choice is None or isinstance(choice, str):
        return ToolUse(tools=functions, choice=choice or "auto", parallel=parallel)
    if choice.type == "allowed_tools":
        if any(tool.type == "mcp" for tool in choice.tools or ()):
            problem = "The choice 'allowed_tools' names functions; an MCP server's tools are narrowed in 'tools'."
            raise unsupported("tool_choice", problem)
        allowed = frozenset(_chosen(tool, given) for tool in choice.tools or ())
        return ToolUse(tools=functions, choice=choice.mode or "auto", allowed=allowed, parallel=parallel)
    return ToolUse(tools=functions, choice=_chosen(choice, given), parallel=False)


def server_tools(request: PromptRequest) -> ServerTools | None:
    """The tools that are run here; where nobody says anything of them, whichever are the rule here."""
    servers = [(at, tool) for at, tool in enumerate(request.tools or ()) if tool.type == "mcp"]
    if request.tool_choice == "none":
        return None
    if not servers:
        return ServerTools(asked=False, max_calls=request.max_tool_calls)
    for at, tool in servers:
        _check_server(f"tools[{at}]", tool)
    names = tuple(dict.fromkeys(tool.server_label or "" for _, tool in servers))
    at, only = servers[0]
    allowed = only.allowed_tools
    if len(servers) > 1:
        narrowed = [at for at, tool in servers if tool.allowed_tools is not None]
        if narrowed:
            problem = "'allowed_tools' can be given where one MCP server is named, not where several are."
            raise unsupported(f"tools[{narrowed[0]}].allowed_tools", problem)
    if allowed is not None and not isinstance(allowed, list):
        if allowed.read_only is not None or allowed.tool_names is None:
            raise unsupported(f"tools[{at}].allowed_tools", "Tools are allowed here by their names, 'tool_names'.")
        allowed = allowed.tool_names
    return ServerTools(servers=names, allowed=allowed, max_calls=request.max_tool_calls)


def _function(tool: Tool) -> dict[str, Any]:
    given = tool.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)
    return {"type": "function", "function": given}


def _chosen(choice: NamedTool, given: list[Tool] | tuple[()]) -> str:
    """The name of the tool that a choice means."""
    if choice.type == "function":
        if choice.name is None or choice.name not in {tool.name for tool in given}:
            raise invalid("tool_choice", f"'tool_choice' names '{choice.name}', which is none of the 'tools'.")
        return choice.name
    if choice.type != "mcp" or not isinstance(choice, ToolChoice):
        raise _no_such_tool("tool_choice", choice.type)
    if choice.server_label not in {tool.server_label for tool in given if tool.type == "mcp"}:
        raise invalid("tool_choice", f"'tool_choice' names the server '{choice.server_label}', none of the 'tools'.")
    if choice.name is None:
        raise unsupported("tool_choice", "Give the tool's 'name' beside 'server_label', or choose 'required'.")
    return choice.name


def _check_server(place: str, tool: Tool) -> None:
    for field in ("server_url", "connector_id", "tunnel_id", "authorization", "headers"):
        if (tool.model_extra or {}).get(field) is not None:
            raise unsupported(
                f"{place}.{field}",
                f"'{place}.{field}' is not supported: MCP servers are those of the server's own configuration, "
                "called by 'server_label'.",
            )
    if tool.require_approval not in (None, "never"):
        raise unsupported(
            f"{place}.require_approval", "Nobody is asked here before a call; set 'require_approval' to 'never'."
        )


def _no_such_tool(param: str, kind: str) -> ApiError:
    return unsupported(param, f"Tools of type '{kind}' are not supported; functions and MCP servers are.")
