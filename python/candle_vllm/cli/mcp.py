"""Which MCP servers the server uses for its clients, in flags and the environment. Must not know of models."""

from __future__ import annotations

import argparse
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from candle_vllm.cli.settings import UsageError

if TYPE_CHECKING:
    from candle_vllm.mcp import McpServer
    from candle_vllm.server.mcp import McpSettings

__all__ = ["CONFIG_VARIABLE", "add_mcp", "mcp_settings"]

CONFIG_VARIABLE = "CANDLE_VLLM_MCP_CONFIG"
"""Environment variable that names the file of MCP servers where no flag does."""


def add_mcp(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("tools of MCP servers")
    group.add_argument(
        "--mcp-config", metavar="FILE", help=f"mcp.json with the MCP servers to use; also {CONFIG_VARIABLE}"
    )
    group.add_argument("--mcp-command", metavar="COMMAND", help="MCP server to start, beside those of the file")
    group.add_argument(
        "--mcp-args",
        action="extend",
        nargs="+",
        metavar="A,B",
        help="its arguments, with commas or spaces between them; --mcp-args=-m,NAME where they begin with a dash",
    )
    group.add_argument(
        "--mcp-max-turns", type=int, default=10, metavar="N", help="answers of the model in one request at most (10)"
    )
    group.add_argument(
        "--mcp-by-default", action="store_true", help="use all servers' tools in chats that do not say which"
    )


def mcp_settings(args: argparse.Namespace) -> McpSettings:
    """The servers that these flags name, not reached yet. Raises UsageError naming the flag that is wrong."""
    from candle_vllm.conversations import ConversationOptions
    from candle_vllm.errors import ConfigError
    from candle_vllm.mcp import McpServers
    from candle_vllm.server.mcp import McpSettings

    if args.mcp_max_turns < 1:
        raise UsageError(f"--mcp-max-turns {args.mcp_max_turns}: must be at least 1")
    found = [*_configured(args), *_started(args)]
    if not found and args.mcp_by_default:
        raise UsageError("--mcp-by-default: there are no MCP servers; name some with --mcp-config")
    if found and find_spec("mcp") is None:
        raise UsageError("MCP servers need the MCP library: pip install 'candle-vllm[mcp]' first")
    try:
        servers = McpServers(found)
    except ConfigError as error:
        raise UsageError(f"--mcp-command: {error}") from error
    return McpSettings(
        servers=servers, options=ConversationOptions(max_turns=args.mcp_max_turns), by_default=args.mcp_by_default
    )


def _configured(args: argparse.Namespace) -> list[McpServer]:
    from candle_vllm.errors import ConfigError
    from candle_vllm.mcp import read_config

    source, path = "--mcp-config", args.mcp_config
    if path is None:
        source, path = CONFIG_VARIABLE, os.environ.get(CONFIG_VARIABLE) or None
    if path is None:
        return []
    try:
        return read_config(path)
    except ConfigError as error:
        raise UsageError(f"{source}: {error}") from error


def _started(args: argparse.Namespace) -> list[McpServer]:
    """The one server of --mcp-command, which is called as its program is."""
    from candle_vllm.errors import ConfigError
    from candle_vllm.mcp import McpServer

    if args.mcp_command is None:
        if args.mcp_args:
            raise UsageError("--mcp-args: there is no --mcp-command whose arguments they were")
        return []
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(args.mcp_command).stem)[:64] or "server"
    given = [part for word in args.mcp_args or () for part in word.split(",") if part]
    try:
        return [McpServer(name=name, command=args.mcp_command, args=given)]
    except ConfigError as error:
        raise UsageError(f"--mcp-command: {error}") from error
