"""Tables and lists as CommonMark reads them, and so the repository's own pages, for Python-Markdown, which is stricter.

A table or a list may follow a paragraph without a blank line between them, and an inner list is two spaces further in.
"""

import re
from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

_ROW = re.compile(r"\|.*\|\s*$")
_ITEM = re.compile(r"( *)(?:[-*+]|\d{1,3}\.) +\S")


class CommonMark(Extension):
    """What Python-Markdown is given in between."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Python-Markdown's name
        """Run when files have been included (32) and code has been put aside (25)."""
        md.preprocessors.register(_Apart(md), "commonmark", 24)


class _Apart(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        apart: list[str] = []
        kind = ""  # of the block that the last line is part of
        for line in lines:
            item = _ITEM.match(line)
            now = "table" if _ROW.match(line) else "list" if item else "text"
            if not line.strip():
                now = ""
            elif now == "text" and kind == "list":
                now = "list"  # the item goes on
            if now and kind and now != kind and (now, kind) != ("text", "list"):
                apart.append("")
            apart.append(" " * len(item[1]) + line if item and now == "list" else line)
            kind = now
        return apart


def on_config(config: Any) -> Any:
    """Have every page read so."""
    config.markdown_extensions.append(CommonMark())
    return config
