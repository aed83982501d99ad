"""Formats whose calls are JSON between tags, or JSON with nothing around it; a subclass says which tags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from candle_vllm.pieces import Parse, Reader, marks

from .calls import Calls
from .events import ToolCall
from .format import Format
from .grammar import Lark
from .json_calls import attempt, json_calls
from .schemas import Tool

__all__ = ["TaggedJson"]


class TaggedJson(Format):
    """JSON calls. `tags` are pairs of a text that announces calls and the text that ends them, "" for none."""

    tags: ClassVar[tuple[tuple[str, str], ...]] = ()
    fences: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Tags that other text may have as well: what is between them counts only if it is like nothing but a call."""

    bare: ClassVar[bool] = False
    """Whether a call may stand at the beginning of a reply or line without any tag."""

    guessed: ClassVar[bool] = False
    """Whether a call without tags counts only for a tool that is known: it is not this format's own way."""

    own_ids: ClassVar[bool] = False
    """Whether ids that the model wrote are kept."""

    many: ClassVar[bool] = False
    """Whether one opening holds a list of calls."""

    name_key: ClassVar[str] = "name"
    arguments_key: ClassVar[str] = "arguments"
    layout: ClassVar[tuple[str, str]] = ("", "")
    """White space that models write after the opening and before the end tag."""

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Text and calls in turn."""
        guesses = not (self.guessed and calls.held)
        fences = dict(self.fences) if guesses else {}
        ends = dict(self.tags) | fences
        tags = marks(*ends)
        bare = self.bare and guesses
        wanted = marks(*ends, "\n") if bare else tags
        fresh = bare
        while True:
            if fresh:
                calls.text((yield from reader.space()))
                head = yield from reader.peek()
                if head and head in "{[" and not (yield from reader.at_mark(tags)):
                    calls_here = json_calls(reader, calls, strict=True, known=self.guessed, own_ids=self.own_ids)
                    fresh = yield from attempt(reader, calls, "", calls_here, sure=False)
                    if fresh:
                        continue
            mark = yield from reader.upto(wanted, calls.text)
            if not mark:
                return
            reader.take(len(mark))
            if mark == "\n":
                calls.text(mark)
                fresh = True
                continue
            sure = mark not in fences
            found = yield from attempt(reader, calls, mark, self.read_tagged(reader, calls, mark), sure=sure)
            fresh = found and bare

    def read_tagged(self, reader: Reader, calls: Calls, mark: str) -> Parse[None]:
        """What follows an opening tag or fence."""
        end = self._ending(mark)
        strict = mark in dict(self.fences)
        known = strict and self.guessed
        yield from json_calls(reader, calls, (end,) if end else (), strict=strict, known=known, own_ids=self.own_ids)

    def _ending(self, opening: str) -> str:
        return dict((*self.tags, *self.fences)).get(opening, "")

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The calls between the first tags, or bare where nothing announces them."""
        opening, ending = self.opening, self._ending(self.opening)
        before, after = self.layout
        written = [
            f"{{{json.dumps(self.name_key)}: {json.dumps(call.name, ensure_ascii=False)}, "
            f"{json.dumps(self.arguments_key)}: {call.arguments}}}"
            for call in calls
        ]
        if self.many:
            return f"{opening}{before}[{', '.join(written)}]{after}{ending}"
        return self.separator.join(f"{opening}{before}{call}{after}{ending}" for call in written)

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """An object for each tool, in a list where one opening holds many."""
        call = lark.either(
            lark.rule(f"{lark.literal(self._head(tool))} {lark.arguments(tool)} {lark.literal('}')}") for tool in tools
        )
        before, after = self.layout
        ending = self._ending(self.opening)
        if self.many:
            more = f' (", " {call})*' if parallel else ""
            call = f'"[" {call}{more} "]"'
        return " ".join(filter(None, (lark.literal(before), call, lark.literal(after + ending))))

    def _head(self, tool: Tool) -> str:
        name = json.dumps(tool.name, ensure_ascii=False)
        return f"{{{json.dumps(self.name_key)}: {name}, {json.dumps(self.arguments_key)}: "
