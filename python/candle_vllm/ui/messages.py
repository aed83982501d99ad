"""Messages on a page: what the user said, and answers with their thoughts, tools and figures. Must not make answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nicegui import ui

from candle_vllm.models import WaitStatus
from candle_vllm.ui.conversation import Answer, CallPart, Question, TextPart
from candle_vllm.ui.progress import Loading
from candle_vllm.ui.texts import GrowingText
from candle_vllm.ui.words import figures, waiting

__all__ = ["AnswerView", "QuestionView"]

_SHOWN = 20_000
"""Characters of a tool's arguments or result that are shown."""

Action = Callable[[], Any]


def action(icon: str, label: str, do: Callable[..., Any]) -> ui.button:
    """A small button beside a message."""
    button = ui.button(icon=icon, on_click=do, color=None).props(f'flat dense round size=sm aria-label="{label}"')
    with button:
        ui.tooltip(label)
    return button


class QuestionView:
    """What the user said; `edit` gets it as it was changed."""

    def __init__(self, question: Question, edit: Callable[[str], Any]) -> None:
        self._question = question
        self._edit = edit
        with ui.element("article").classes("cv-message cv-question").props('aria-label="You"') as self.element:
            self._show()

    def _show(self) -> None:
        ui.label(self._question.text).classes("cv-bubble")
        with ui.element("div").classes("cv-actions"):
            action("edit", "Edit", self._open)

    def _open(self) -> None:
        self.element.clear()
        with self.element:
            box = ui.textarea(value=self._question.text).props("outlined autogrow autofocus dense")
            box.classes("cv-edit").props('aria-label="Edit your message"')
            with ui.element("div").classes("cv-edit-buttons"):
                ui.button("Cancel", on_click=self._close).props("flat no-caps")
                ui.button("Send", on_click=lambda: self._edit(box.value or "")).props("unelevated no-caps")

    def _close(self) -> None:
        self.element.clear()
        with self.element:
            self._show()


class AnswerView:
    """An answer, whole or still being made."""

    def __init__(self, answer: Answer, regenerate: Action) -> None:
        self._answer = answer
        self._parts: list[_TextView | _ThoughtView | _CallView] = []
        self._whole = 0
        """Parts that do not change any more, from the first on; calls may, until they have run."""
        with ui.element("article").classes("cv-message cv-answer").props('aria-label="Answer"') as self.element:
            self._body = ui.element("div")
            with ui.element("div").classes("cv-wait") as self._wait:
                ui.spinner("dots", size="1.6em")
                self._wait_text = ui.label()
            self._bar = ui.linear_progress(0, show_value=False, size="4px").classes("cv-bar")
            self._error = ui.label().classes("cv-error").props("role=alert")
            with ui.element("div").classes("cv-actions") as self._foot:
                self._figures = ui.label().classes("cv-figures")
                self._copy = action("content_copy", "Copy", self._copy_text)
                self._again = action("refresh", "Regenerate", regenerate)
        self._around(None, None, answer.ended != "")

    async def show(self, wait: WaitStatus | None = None, loading: Loading | None = None, ended: bool = True) -> None:
        """Show the answer as it is now."""
        parts = self._answer.parts
        for at, part in enumerate(list(parts)):
            if self.element.is_deleted:
                return
            if at == len(self._parts):
                with self._body:
                    self._parts.append(_view(part))
            whole = ended or at < len(parts) - 1
            if isinstance(part, CallPart):
                # It may run while others stand behind it.
                await self._parts[at].show(part, ended)
            elif at >= self._whole:
                await self._parts[at].show(part, whole)
            if whole:
                self._whole = max(self._whole, at + 1)
        if not self.element.is_deleted:
            self._around(wait, loading, ended)

    def _around(self, wait: WaitStatus | None, loading: Loading | None, ended: bool) -> None:
        idle = not ended and not self._answer.parts
        self._wait.set_visibility(idle)
        self._wait_text.set_text(waiting(wait, loading))
        share = loading.share if idle and loading and wait and wait.status == "loading" else None
        self._bar.set_visibility(share is not None)
        if share is not None:
            self._bar.set_value(share)
        self._error.set_visibility(bool(self._answer.error))
        self._error.set_text(self._answer.error)
        self._figures.set_text(figures(self._answer))
        self._foot.set_visibility(ended or self._answer.tokens > 0)
        self._copy.set_visibility(ended and bool(self._answer.text))
        self._again.set_visibility(ended)

    def _copy_text(self) -> None:
        ui.clipboard.write(self._answer.text)
        ui.notify("Copied", position="top", type="positive", timeout=1000)


def _view(part: TextPart | CallPart) -> _TextView | _ThoughtView | _CallView:
    if isinstance(part, CallPart):
        return _CallView(part)
    return _TextView() if part.kind == "text" else _ThoughtView()


class _TextView:
    def __init__(self) -> None:
        self._text = GrowingText()

    async def show(self, part: TextPart | CallPart, last: bool) -> None:
        assert isinstance(part, TextPart)
        await self._text.show(part.text, last)


class _ThoughtView:
    """What the model thinks, folded."""

    def __init__(self) -> None:
        with ui.expansion("Thinking …", icon="psychology").classes("cv-fold").props("dense") as self._fold:
            self._text = GrowingText()

    async def show(self, part: TextPart | CallPart, last: bool) -> None:
        assert isinstance(part, TextPart)
        if last:
            self._fold.set_text("Thoughts")
        await self._text.show(part.text, last)


class _CallView:
    """A tool that was called, and what it said, folded."""

    def __init__(self, call: CallPart) -> None:
        where = f" · {call.server}" if call.server else ""
        with ui.expansion(f"{call.name}{where}", icon="build").classes("cv-fold cv-call").props("dense") as self._fold:
            ui.label("Arguments").classes("cv-caption")
            self._arguments = ui.label().classes("cv-mono")
            self._caption = ui.label().classes("cv-caption")
            self._output = ui.label().classes("cv-mono")

    async def show(self, part: TextPart | CallPart, last: bool) -> None:
        assert isinstance(part, CallPart)
        self._arguments.set_text(_indented(part.arguments))
        self._output.set_text(_short(part.output or ""))
        if part.output is not None:
            self._caption.set_text("Result" if part.error is None else f"Failed: {part.error}")
        elif part.server is None or last:
            self._caption.set_text("Not run")
        else:
            self._caption.set_text("Running …")
        icon = "error_outline" if part.error else "check" if part.output is not None else "build"
        self._fold.props(f"icon={icon}")


def _indented(arguments: str) -> str:
    try:
        return _short(json.dumps(json.loads(arguments), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return _short(arguments)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n… {len(text) - _SHOWN} more characters"
