"""ToolResult: what a call came to, whatever happened, as text that a model can read and act on.

Must not know of the protocol's library: content arrives as the protocol's JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from candle_vllm.errors import CandleVllmError, McpConnectionError, McpToolExecutionError, RequestTimeoutError

__all__ = ["Outcome", "ToolResult", "clipped", "text_of"]

Outcome = Literal[
    "ok",
    "tool_error",
    "invalid_arguments",
    "invalid_result",
    "unknown_tool",
    "refused",
    "protocol_error",
    "timeout",
    "connection",
]
"""How a call ended: `tool_error` is the tool's own failure; `invalid_arguments`, `unknown_tool` and `refused` calls
never ran; after `timeout` and `connection` nobody knows whether the call has run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The end of a call. Never empty: a tool that says nothing has its silence told."""

    text: str
    """For the model."""
    outcome: Outcome = "ok"
    structured: Any = None
    """The tool's structured content, where it gave some."""
    content: tuple[Mapping[str, Any], ...] = ()
    """The protocol's content blocks as they came, pictures included."""

    @property
    def is_error(self) -> bool:
        """Whether the call did not do what was asked."""
        return self.outcome != "ok"

    @classmethod
    def failed(cls, outcome: Outcome, text: str) -> ToolResult:
        """A call that gave no result of its own."""
        return cls(text=f"Error: {text}", outcome=outcome)

    def raise_for_error(self) -> ToolResult:
        """This result, or its failure as McpToolExecutionError, McpConnectionError or RequestTimeoutError."""
        kinds: dict[Outcome, type[CandleVllmError]] = {
            "timeout": RequestTimeoutError,
            "connection": McpConnectionError,
        }
        if self.is_error:
            raise kinds.get(self.outcome, McpToolExecutionError)(self.text.removeprefix("Error: "))
        return self


def text_of(content: Iterable[Mapping[str, Any]], structured: Any, most: int) -> str:
    """A result's text, of at most about `most` characters.

    Structured content counts where no block is text: servers repeat it there, as the protocol asks them to.
    """
    blocks = list(content)
    parts = [_block(block) for block in blocks]
    if structured is not None and not any(block.get("type") == "text" for block in blocks):
        parts.insert(0, json.dumps(structured, ensure_ascii=False))
    return clipped("\n".join(part for part in parts if part), most) or "(The tool returned nothing.)"


def clipped(text: str, most: int) -> str:
    """The text, or its beginning and end around a note of how much was left out."""
    if len(text) <= most:
        return text
    head = most * 3 // 4
    tail = most - head
    return f"{text[:head]}\n[... {len(text) - most} characters left out ...]\n{text[len(text) - tail :]}"


def _block(block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    if kind == "text":
        return _string(block, "text")
    if kind in ("image", "audio"):
        return f"[{kind}: {_string(block, 'mimeType') or 'unknown type'}, {_bytes(block.get('data'))} bytes, not shown]"
    if kind == "resource_link":
        return _link(block)
    if kind == "resource":
        return _resource(block.get("resource"))
    return f"[content of type {str(kind)[:40]!r}, not shown]"


def _link(block: Mapping[str, Any]) -> str:
    about = [_string(block, "title") or _string(block, "name"), _string(block, "mimeType")]
    note = ", ".join(part for part in about if part)
    described = _string(block, "description")
    return (
        f"[resource {_string(block, 'uri')}"
        + (f" ({note})" if note else "")
        + "]"
        + (f" {described}" if described else "")
    )


def _resource(resource: object) -> str:
    if not isinstance(resource, Mapping):
        return ""
    uri, text = _string(resource, "uri"), resource.get("text")
    if isinstance(text, str):
        return f"[resource {uri}]\n{text}"
    kind = _string(resource, "mimeType") or "unknown type"
    return f"[resource {uri}: {kind}, {_bytes(resource.get('blob'))} bytes, not shown]"


def _string(block: Mapping[str, Any], key: str) -> str:
    value = block.get(key)
    return value if isinstance(value, str) else ""


def _bytes(encoded: object) -> int:
    """How many bytes a base64 text stands for."""
    if not isinstance(encoded, str):
        return 0
    return max(0, len(encoded) * 3 // 4 - encoded[-2:].count("="))
