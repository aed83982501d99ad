"""Text of a model on a page: elements that grow as it comes. Must not know of conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nicegui import ui

from candle_vllm.ui.markdown import Block, Growing

__all__ = ["GrowingText"]


class GrowingText:
    """One text. Only what has changed of it is sent to the browser, and reading it leaves the event loop free."""

    def __init__(self) -> None:
        self._box = ui.element("div").classes("cv-text")
        self._growing = Growing()
        self._seen = 0
        self._blocks: list[Block] = []
        self._elements: list[_Element] = []

    async def show(self, text: str, last: bool) -> None:
        """Show `text`, which begins with what was shown before; `last` when it is whole."""
        more = text[self._seen :]
        if not more and not last:
            return
        self._seen = len(text)
        blocks = await asyncio.to_thread(self._growing.grow, more, last=last)
        if not self._box.is_deleted:
            self._take(blocks)

    def _take(self, blocks: Sequence[Block]) -> None:
        with self._box:
            for at, block in enumerate(blocks):
                if at < len(self._blocks) and self._blocks[at] is block:
                    continue
                if at < len(self._elements) and not self._elements[at].takes(block):
                    for element in self._elements[at:]:
                        element.delete()
                    del self._elements[at:]
                if at == len(self._elements):
                    self._elements.append(_Element(block))
                self._elements[at].show(block)
        for element in self._elements[len(blocks) :]:
            element.delete()
        del self._elements[len(blocks) :]
        self._blocks = list(blocks)


class _Element:
    """One block on the page."""

    def __init__(self, block: Block) -> None:
        self._form = _form(block)
        self._block = block
        if block.code is None:
            # Safe by `markdown.Block`: the library's own filter would drop where links open.
            self._html = ui.html("", sanitize=False)
            self._html.classes("cv-plain" if block.plain else "cv-block")
            self._outer: ui.element = self._html
            return
        with ui.element("div").classes("cv-code") as self._outer:
            with ui.element("div").classes("cv-code-head"):
                ui.label(block.language or "code")
                copy = ui.button(icon="content_copy", on_click=self._copy, color=None)
                copy.props('flat dense round size=sm aria-label="Copy code"')
            self._html = ui.html("", sanitize=False)

    def takes(self, block: Block) -> bool:
        """Whether this block may stand in place of the one before."""
        return self._form == _form(block)

    def show(self, block: Block) -> None:
        """Show it."""
        self._block = block
        self._html.content = block.html

    def delete(self) -> None:
        """Take it off the page."""
        self._outer.delete()

    def _copy(self) -> None:
        ui.clipboard.write(self._block.code or "")
        ui.notify("Copied", position="top", type="positive", timeout=1000)


def _form(block: Block) -> tuple[bool, str | None]:
    return block.plain, None if block.code is None else block.language
