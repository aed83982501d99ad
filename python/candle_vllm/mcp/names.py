"""Names of tools as OpenAI's rule allows them, each standing for one tool of one server.

MCP allows dots, slashes and 128 characters, and two servers may use one name; OpenAI allows 64 letters, digits, `_`
and `-`. A name is kept where the rule allows it and nobody else has it. The table of names is the way back.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TypeVar

__all__ = ["MOST_CHARACTERS", "is_plain", "named"]

MOST_CHARACTERS = 64
_OTHER = re.compile(r"[^A-Za-z0-9_-]")
_MARK = 8

ToolT = TypeVar("ToolT", bound=tuple[str, str])


def is_plain(name: str) -> bool:
    """Whether OpenAI's rule allows a name."""
    return 0 < len(name) <= MOST_CHARACTERS and not _OTHER.search(name)


def named(tools: Sequence[ToolT], taken: Collection[str] = ()) -> dict[str, ToolT]:
    """Name to (server, tool), one name for each; `taken` are in use already.

    Tools whose names collide all get their server's name before them, so that none depends on the order of servers;
    what still collides gets a mark made from both names, which stays the same from run to run.
    """
    tools = list(dict.fromkeys(tools))
    short = [_plain(tool) for _, tool in tools]
    crowded = {name for name, count in Counter(short).items() if count > 1} | set(taken)
    longer = [
        _plain(f"{server}__{tool}") if name in crowded else name
        for name, (server, tool) in zip(short, tools, strict=True)
    ]
    crowded = {name for name, count in Counter(longer).items() if count > 1} | set(taken)
    return {_marked(name, *tool) if name in crowded else name: tool for name, tool in zip(longer, tools, strict=True)}


def _plain(text: str) -> str:
    """The text with other characters replaced; a text that is too long keeps its beginning and a mark."""
    name = _OTHER.sub("_", text) or "_"
    return name if len(name) <= MOST_CHARACTERS else _marked(name, text)


def _marked(name: str, *whole: str) -> str:
    mark = hashlib.sha256("\0".join(whole).encode("utf-8", "surrogatepass")).hexdigest()[:_MARK]
    return f"{name[: MOST_CHARACTERS - _MARK - 1]}_{mark}"
