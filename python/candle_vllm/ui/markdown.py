"""Markdown of a hostile writer as HTML that a page may show, block by block while it still grows.

Text of a model never becomes a tag, a script, an image or a link to anything but web and mail addresses, and no text,
whatever its length, costs more than a bounded time for each piece that arrives. Must not know of pages.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

__all__ = ["Block", "Growing", "safe"]

_MOST = 16 * 1024
"""Characters of one block that are read as Markdown; a longer one is shown as it is."""
_PLAIN = 8 * 1024
"""Characters of one block of text that is shown as it is, so that a long line is not sent again as it grows."""
_HIGHLIGHTED = 8 * 1024
"""Characters of code that are coloured; the patterns of some languages take long over more."""
_CELLS = 4_000
"""Cells of a table."""
_BLOCKS = 1_000
"""Blocks after which the rest is shown as it is; each costs a page something, however short."""
_AT_ONCE = 400
"""Blocks that one piece of text may add."""
_RULE = frozenset(" \t>|:-")
"""What the line below the head of a table consists of."""
_QUICK = 0.05
"""Seconds that a reading may take; longer ones are counted."""
_PATIENCE = 2.0
"""Seconds of such readings after which the rest of a text is shown as it is: it was written to be slow."""
_NEVER = "\0\0never"
"""What no text holds: the reader has replaced NUL."""
_SCHEMES = ("http://", "https://", "mailto:")
_TAGS = frozenset(
    [
        "a",
        "blockquote",
        "br",
        "code",
        "del",
        "em",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "li",
        "ol",
        "p",
        "pre",
        "s",
        "span",
        "strong",
        "table",
        "tbody",
        "td",
        "th",
        "thead",
        "tr",
        "ul",
    ]
)
_ATTRIBUTES = {"a": {"href", "title"}, "span": {"class"}, "code": {"class"}, "ol": {"start"}, "th": {"style"}}


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a text."""

    html: str
    """Safe to show."""
    code: str | None = None
    """The code itself, where it is a block of that."""
    language: str = ""
    """What the code is said to be in."""
    plain: bool = False
    """Whether it is a piece of text that is shown as it is, and goes on in the next one."""


class Growing:
    """The blocks of a text that only ever grows at its end.

    What is settled is neither read nor made again: of the blocks that `grow` gives, all but the last one are the very
    same objects as before. May be used in any thread, by one at a time.
    """

    def __init__(self) -> None:
        self._settled: list[Block] = []
        self._rest = ""
        self._until: str | None = None
        self._patience = _PATIENCE

    def grow(self, more: str, *, last: bool = False) -> Sequence[Block]:
        """All blocks with `more` at the end; `last` when there will be no more, so that code is coloured."""
        self._rest += more.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\r\n", "\n").replace("\r", "\n")
        while self._step():
            pass
        if last and self._until is None:
            self._settle(self._sources(self._rest))
            self._rest = ""
        return [*self._settled, *self._open()]

    def _step(self) -> bool:
        """Settle what can be; whether more could be settled of the rest."""
        if self._until is not None:
            return self._pour(self._until)
        if self._patience < 0 or len(self._settled) > _BLOCKS:
            self._until = _NEVER
            return True
        window = self._rest[:_MOST]
        sources = self._sources(window)
        if len(sources) > 1:
            self._settle(sources[:-1])
            self._rest = self._rest[sum(map(len, sources[:-1])) :]
            return len(self._rest) > _MOST
        if len(self._rest) > _MOST:
            fence = window.lstrip()[:3]
            self._until = f"\n{fence}" if fence in ("```", "~~~") else "\n\n"
            return True
        return False

    def _pour(self, until: str) -> bool:
        """Settle text as it is, up to where Markdown begins again, if that is there."""
        # Code that opens with a fence does not end with that.
        found = self._rest.find(until, 1)
        end = len(self._rest) if found < 0 else found + len(until)
        while end >= _PLAIN or (found >= 0 and end > 0):
            # A line is cut only where it is as long as that.
            cut = end if end < _PLAIN else self._rest.rfind("\n", 0, _PLAIN) + 1 or _PLAIN
            self._settled.append(_as_it_is(self._rest[:cut]))
            self._rest = self._rest[cut:]
            end -= cut
        if found >= 0:
            self._until = None
        return found >= 0

    def _open(self) -> list[Block]:
        if not self._rest:
            return []
        return [_as_it_is(self._rest)] if self._until is not None else [self._made(self._rest, False)]

    def _settle(self, sources: Sequence[str]) -> None:
        if len(sources) > _AT_ONCE:
            self._settled.append(_as_it_is("".join(sources)))
        else:
            self._settled += [self._made(source, True) for source in sources]

    def _made(self, source: str, done: bool) -> Block:
        with self._timed():
            return _block(source, done)

    def _sources(self, text: str) -> list[str]:
        with self._timed():
            return _sources(text)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._patience -= max(0.0, time.perf_counter() - began - _QUICK)


def safe(text: str) -> str:
    """A short text as HTML."""
    return "".join(block.html for block in Growing().grow(text, last=True))


def _sources(text: str) -> list[str]:
    """The text cut into its outermost blocks, each with what stands between it and the next."""
    if _wide(text):
        return [text]
    starts = [token.map[0] for token in _OUTER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    if len(starts) < 2:
        return [text] if text else []
    # Where Markdown sees lines, and there alone.
    lines = text.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + lines[-1:]
    bounds = [0, *starts[1:], len(lines)]
    return ["".join(lines[start:end]) for start, end in pairwise(bounds)]


def _wide(text: str) -> bool:
    """Whether it could be a table of very many cells, most of which Markdown would add to short rows."""
    lines = text.split("\n")
    if not any("|" in line and set(line) <= _RULE for line in lines):
        return False
    return max(line.count("|") for line in lines) * len(lines) > _CELLS


def _block(source: str, done: bool) -> Block:
    if _wide(source):
        return _as_it_is(source)
    tokens = _MARKDOWN.parse(source)
    if len(tokens) == 1 and tokens[0].type in ("fence", "code_block"):
        code = tokens[0].content
        language = tokens[0].info.split()[0][:32] if tokens[0].info.strip() else ""
        return Block(f"<pre><code>{_coloured(code, language if done else '')}</code></pre>", code, language)
    return Block(_clean(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})))


def _as_it_is(text: str) -> Block:
    return Block(html.escape(text), plain=True)


def _coloured(code: str, language: str) -> str:
    """Spans that say what each piece is; escaped by the formatter, and by itself where nothing is known of it."""
    if not language or len(code) > _HIGHLIGHTED:
        return html.escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return html.escape(code)
    return _clean(highlight(code, lexer, _FORMATTER))


def _clean(text: str) -> str:
    """The second lock behind the renderer's own."""
    return nh3.clean(
        text,
        tags=set(_TAGS),
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        filter_style_properties={"text-align"},
    )


def _image(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    """An image is named, not fetched: its address could tell a stranger of the conversation."""
    return f"[image: {html.escape(tokens[at].content)}]"


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    made.disable("html_block").disable("html_inline")
    made.validateLink = lambda url: url.strip().lower().startswith(_SCHEMES)  # type: ignore[method-assign]
    made.add_render_rule("image", _image)
    return made


_MARKDOWN = _markdown()
_OUTER = _markdown().disable("inline")
_FORMATTER = HtmlFormatter(nowrap=True)
