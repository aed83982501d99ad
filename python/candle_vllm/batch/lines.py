"""The lines of a batch file: read one at a time, however long the file is, and told apart into requests and mistakes.

Must not know who answers them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

__all__ = ["MOST_BYTES", "Ask", "Line", "Problem", "ask_of", "lines_of", "prompt_key"]

MOST_BYTES = 8 << 20
"""Of a line; as a server's `--max-body-size` is unless it is set."""

_BOM = b"\xef\xbb\xbf"
_COMPARED = 4096
"""Characters of prompts that are compared to bring those with a common beginning together."""
_PROMPTS = ("messages", "prompt", "input")
_BEFORE_THEM = ("model", "tools", "instructions")
"""Members of a body that stand in a prompt before its messages, or choose who reads it."""


class Line(NamedTuple):
    """One line of a file."""

    number: int
    """From 1."""
    text: bytes | None
    """None: longer than `MOST_BYTES`."""
    size: int
    """Bytes that it takes in the file."""


class Problem(NamedTuple):
    """Why a line is no request."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What one line asks for; with a `problem` there is nothing to ask."""

    number: int
    size: int
    custom_id: str | None = None
    url: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    key: str = ""
    """Neighbours in its order have most of their prompts' beginnings in common."""


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """The lines that are not blank. No more than one of them, and no more than `MOST_BYTES` of it, is in memory."""
    number = 0
    while text := file.readline(MOST_BYTES + 1):
        number += 1
        size = len(text)
        if size > MOST_BYTES and not text.endswith(b"\n"):
            while more := file.readline(1 << 20):
                size += len(more)
                if more.endswith(b"\n"):
                    break
            yield Line(number, None, size)
            continue
        if number == 1:
            text = text.removeprefix(_BOM)
        if text.strip():
            yield Line(number, text, size)


def ask_of(line: Line, urls: Collection[str]) -> Ask:
    """What a line asks of one of `urls`, or what is wrong with it."""
    if line.text is None:
        return _wrong(line, "line_too_long", f"the line is longer than {MOST_BYTES:,} bytes")
    try:
        said = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return _wrong(line, "invalid_json_line", f"the line is not JSON: {error}")
    if not isinstance(said, dict):
        return _wrong(line, "invalid_json_line", "the line is not a JSON object")
    custom_id = said.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return _wrong(line, "missing_custom_id", "'custom_id' must be a text that is not empty")
    url, method, body = said.get("url"), said.get("method"), said.get("body")
    if method != "POST":
        return _wrong(line, "invalid_method", f"'method' must be 'POST'; got {_shown(method)}", custom_id)
    if not isinstance(url, str) or url not in urls:
        return _wrong(line, "invalid_url", _no_such(url, urls), custom_id)
    if not isinstance(body, dict):
        return _wrong(line, "invalid_body", f"'body' must be a JSON object; got {_shown(body)}", custom_id)
    return Ask(line.number, line.size, custom_id, url, body, key=prompt_key(url, body))


def _wrong(line: Line, code: str, message: str, custom_id: str | None = None) -> Ask:
    return Ask(line.number, line.size, custom_id, problem=Problem(code, f"line {line.number}: {message}"))


def _no_such(url: object, urls: Collection[str]) -> str:
    if url == "/v1/embeddings":
        return "'/v1/embeddings' cannot be answered: the engine generates text and computes no embeddings"
    return f"'url' must be one of {', '.join(sorted(urls))}; got {_shown(url)}"


def _shown(value: object) -> str:
    return repr(value)[:100]


def prompt_key(url: str, body: Mapping[str, Any], most: int = _COMPARED) -> str:
    """A text that begins alike for prompts that begin alike, `most` characters of it."""
    parts = [body.get(name) for name in (*_BEFORE_THEM, *_PROMPTS)]
    # Within a message its content stands before its role, so that contents are what is compared.
    return f"{url} {json.dumps(parts, sort_keys=True, ensure_ascii=False)[:most]}"
