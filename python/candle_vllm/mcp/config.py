"""Which MCP servers there are and how each is reached: one record a server, read from `mcp.json` or made in code.

Three forms of the file are known: `{"mcpServers": {name: {...}}}`, `{"servers": [{"name": ..., ...}]}` and a bare
array of the latter's entries. Must not know of connections.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from candle_vllm import checks
from candle_vllm.errors import ConfigError

__all__ = ["Limits", "McpServer", "Timeouts", "parse_config", "read_config"]

Transport = Literal["stdio", "http", "sse"]

_log = logging.getLogger(__name__)
_YEAR = 366 * 86_400.0
_NAME = re.compile(r"[A-Za-z0-9_.\- ]{1,64}")
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TRANSPORTS: dict[str, Transport] = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
    "sse": "sse",
}
_LARGEST_FILE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds; all finite, so that no server holds anyone for ever."""

    connect: float = 30.0
    """From starting or reaching the server to the end of its handshake, all ways of trying together."""
    call: float = 60.0
    """Of one call, or of reading the whole list of tools."""
    idle: float = 1800.0
    """Without a call, after which the connection is closed; the next call opens it again."""

    def __post_init__(self) -> None:
        for name in ("connect", "call", "idle"):
            checks.number(name, getattr(self, name), 0.0, _YEAR, open_low=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a server may send."""

    message_bytes: int = 16 << 20
    """Of one message; a longer one ends the connection."""
    result_chars: int = 65_536
    """Of the text of a result; the middle of a longer one is left out."""
    pages: int = 100
    """Of the list of tools."""
    tools: int = 2000
    """In the list of tools."""
    schema_chars: int = 65_536
    """Of a tool's schema as JSON, references resolved; a tool with a longer one is left out."""

    def __post_init__(self) -> None:
        for name in ("message_bytes", "result_chars", "pages", "tools", "schema_chars"):
            checks.integer(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """One server: a program to start (`command`) or an address to reach (`url`).

    Raises ConfigError where both or neither is given, or a value cannot work. Secrets stay out of the repr.
    """

    name: str
    command: str | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables beside the few that are inherited (HOME, LOGNAME, PATH, SHELL, TERM, USER)."""
    cwd: str | None = None
    url: str | None = None
    transport: Transport | None = None
    """How the server speaks; None = stdio for a command, and for an address streamable HTTP or else SSE."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: str | None = field(default=None, repr=False)
    """A token, sent as `Authorization: Bearer TOKEN`, or the header's whole value where it has a space."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    instructions: str | None = None
    """What a model should know about the server's tools; becomes part of the system message."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            checks.refuse("name", self.name, "1 to 64 letters, digits, spaces or any of _.-")
        if (self.command is None) == (self.url is None):
            raise ConfigError(f"server {self.name!r} needs either 'command' or 'url'", field="command")
        if self.command is not None and self.transport not in (None, "stdio"):
            checks.refuse("transport", self.transport, "'stdio' for a server with a command")
        if self.command == "":
            checks.refuse("command", self.command, "the name or path of a program")
        if self.url is not None:
            self._check_url()

    def _check_url(self) -> None:
        parts = urlsplit(self.url or "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            checks.refuse("url", self.url, "an http:// or https:// address")
        if self.transport == "stdio":
            checks.refuse("transport", self.transport, "'http' or 'sse' for a server with a url")
        for name, value in self.sent_headers.items():
            if not _HEADER.fullmatch(name):
                checks.refuse("headers", name, "made of names that HTTP allows")
            if not value.isprintable() or not value.isascii():
                # The value may be a secret.
                raise ConfigError(f"headers must hold printable ASCII; {name!r} does not", field="headers")

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers of every request, authorization included."""
        headers = dict(self.headers)
        if self.auth is not None:
            headers["Authorization"] = self.auth if " " in self.auth else f"Bearer {self.auth}"
        return headers


def read_config(path: str | os.PathLike[str]) -> list[McpServer]:
    """The servers of an `mcp.json`. Raises ConfigError that names the file, the server and what is wrong."""
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{file} is larger than {_LARGEST_FILE} bytes", field="mcp_config")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mcp_config cannot be read: {error}", field="mcp_config", value=str(file)) from error
    try:
        return parse_config(json.loads(text))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{file}, line {error.lineno}, column {error.colno}: {error.msg}", field="mcp_config"
        ) from error
    except RecursionError:
        raise ConfigError(f"{file} is nested too deeply", field="mcp_config") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}", field=error.field, value=error.value, expected=error.expected) from error


def parse_config(form: Any) -> list[McpServer]:
    """The servers of a configuration in any of the three forms. Servers with `"disabled": true` are left out."""
    servers: list[McpServer] = []
    for name, entry in _entries(form):
        try:
            server = _server(name, entry)
        except ConfigError as error:
            raise ConfigError(
                f"server {name!r}: {error}", field=error.field, value=error.value, expected=error.expected
            ) from error
        if any(server is not None and other.name == server.name for other in servers):
            raise ConfigError(f"server {name!r} is named twice", field="name", value=name)
        if server is not None:
            servers.append(server)
    return servers


def _entries(form: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found = form
    if isinstance(form, Mapping):
        found = form.get("mcpServers", form.get("servers"))
    if isinstance(found, Mapping):
        pairs = list(found.items())
    elif isinstance(found, list):
        pairs = [(entry.get("name") if isinstance(entry, Mapping) else None, entry) for entry in found]
    else:
        raise ConfigError("the configuration has neither 'mcpServers' nor 'servers', and is no array of servers")
    for at, (name, entry) in enumerate(pairs):
        if not isinstance(entry, Mapping):
            raise ConfigError(f"server {name or at!r} is not an object")
        if not isinstance(name, str):
            raise ConfigError(f"server {at} has no 'name'", field="name")
        yield name, entry


_OTHER_SETTINGS = ("headers", "auth", "timeout_secs", "connect_timeout_secs", "idle_timeout_secs", "instructions")
_KNOWN = {"name", "command", "args", "env", "cwd", "url", "type", "transport", "disabled", *_OTHER_SETTINGS}


def _server(name: str, entry: Mapping[str, Any]) -> McpServer | None:
    if entry.get("disabled") is True:
        return None
    for key in entry.keys() - _KNOWN:
        _log.debug("MCP server %r: the setting %r is not known here and has no effect", name, key)
    given = {"connect": "connect_timeout_secs", "call": "timeout_secs", "idle": "idle_timeout_secs"}
    timeouts = {ours: entry[theirs] for ours, theirs in given.items() if entry.get(theirs) is not None}
    for ours, value in timeouts.items():
        checks.number(given[ours], value, 0.0, _YEAR, open_low=True)
    return McpServer(
        name=name,
        command=_text(entry, "command"),
        args=[_expanded(_is_text("args", each)) for each in _listed(entry, "args")],
        env=_texts(entry, "env"),
        cwd=_text(entry, "cwd"),
        url=_text(entry, "url"),
        transport=_transport(entry),
        headers=_texts(entry, "headers"),
        auth=_text(entry, "auth"),
        timeouts=Timeouts(**timeouts),
        instructions=_text(entry, "instructions"),
    )


def _transport(entry: Mapping[str, Any]) -> Transport | None:
    given = entry.get("transport", entry.get("type"))
    if given is None:
        return None
    known = _TRANSPORTS.get(given.lower()) if isinstance(given, str) else None
    if known is None:
        checks.refuse("type", given, "'stdio', 'http' or 'sse'")
    return known


def _listed(entry: Mapping[str, Any], key: str) -> list[Any]:
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        checks.refuse(key, value, "an array of texts")
    return value


def _texts(entry: Mapping[str, Any], key: str) -> dict[str, str]:
    value = entry.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be an object of texts", field=key)
    return {name: _expanded(_is_text(f"{key}.{name}", each)) for name, each in value.items()}


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return None if value is None else _expanded(_is_text(key, value))


def _is_text(key: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError(f"{key} must be a text", field=key)
    return value


def _expanded(text: str) -> str:
    """`${NAME}`, `${env:NAME}` and `${NAME:-otherwise}` from the environment: secrets need not stand in a file."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"the environment variable {match[1]} is not set")
        return found

    return _VARIABLE.sub(value, text)
