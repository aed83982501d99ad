"""Chat: what a user of one page does with conversations, and the answer that is being made for it.

Must not know how the page around the messages looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from nicegui import Client, ui

from candle_vllm.ui.browser import BrowserStore, Entry
from candle_vllm.ui.conversation import Answer, Conversation, Question
from candle_vllm.ui.messages import AnswerView, QuestionView
from candle_vllm.ui.services import Services
from candle_vllm.ui.settings import Settings
from candle_vllm.ui.turn import Caller, Turn

__all__ = ["Chat"]

_TICK = 0.1
"""Seconds between looks at an answer that is being made."""
_DUTY = 10
"""How many times as long as showing a piece took the next one is waited for: pages take a tenth of the loop at most."""
_SAVE_EACH = 3.0
"""Seconds after which an unfinished answer is kept, so that a reload does not lose it."""
_SAVE_MOST = 64 * 1024
"""Characters of an unfinished answer that are kept so."""
_QUESTION_MOST = 200_000
"""Characters of a question; browsers take seconds to break a longer line."""


class Chat:
    """One page's conversations. `changed` is called when the list of them has, or whether an answer is being made."""

    def __init__(
        self, services: Services, client: Client, caller: Caller, settings: Settings, changed: Callable[[], None]
    ) -> None:
        self.settings = settings
        self.store = BrowserStore(client)
        self.conversation = Conversation()
        self.entries: list[Entry] = []
        self._services = services
        self._client = client
        self._caller = caller
        self._changed = changed
        self._making: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._views: list[QuestionView | AnswerView] = []
        with ui.element("div").classes("cv-thread") as self._thread:
            pass
        self._welcome()
        client.on_delete(self.stop)

    @property
    def busy(self) -> bool:
        """Whether an answer is being made."""
        return self._making is not None

    # What a user does

    async def ask(self, text: str) -> None:
        """Answer a question."""
        if not self.accepts(text):
            return
        if not self._views:
            self._thread.clear()
        self.conversation.ask(text)
        self._add(len(self.conversation.messages) - 1)
        await self._answer()

    def accepts(self, text: str) -> bool:
        """Whether this can be asked now; tells the user of a text that is too long."""
        if len(text) > _QUESTION_MOST:
            ui.notify(f"A message may have {_QUESTION_MOST:,} characters at most.", position="top", type="warning")
            return False
        return not self.busy and bool(text.strip())

    def stop(self) -> None:
        """End the answer that is being made; what there is of it stays."""
        if self._making is not None:
            self._making.cancel()

    async def regenerate(self, answer: Answer) -> None:
        """Make this answer again; what followed it is forgotten."""
        if not self.busy:
            self._cut(self._place(answer))
            await self._answer()

    async def edit(self, question: Question, text: str) -> None:
        """Ask this in place of a question; what followed it is forgotten."""
        if self.accepts(text):
            at = self._place(question)
            self._cut(at)
            if at == 0:
                self._thread.clear()
            await self.ask(text)

    async def new(self) -> None:
        """Begin a conversation."""
        await self._leave()
        self._show(Conversation())
        await self.store.remember("")

    async def open(self, name: str) -> None:
        """Go on with a conversation of the browser's."""
        if name == self.conversation.id:
            return
        await self._leave()
        found = await self.store.load(name)
        if found is None:
            ui.notify("This conversation cannot be read.", position="top", type="warning")
        else:
            self._show(found)
            await self.store.remember(name)
            await self._show_answers()

    async def delete(self, name: str) -> None:
        """Forget a conversation."""
        if name == self.conversation.id:
            await self.new()
        await self.store.forget(name)
        self.entries = [entry for entry in self.entries if entry.id != name]
        self._changed()

    # The messages

    def _place(self, message: Question | Answer) -> int:
        return next(at for at, one in enumerate(self.conversation.messages) if one is message)

    def _cut(self, at: int) -> None:
        self.conversation.cut(at)
        for view in self._views[at:]:
            view.element.delete()
        del self._views[at:]

    def _show(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._views.clear()
        self._thread.clear()
        for at in range(len(conversation.messages)):
            self._add(at)
        if not conversation.messages:
            self._welcome()
        self._changed()

    async def _show_answers(self) -> None:
        # The last ones first, for they are in sight.
        for view in reversed(list(self._views)):
            if isinstance(view, AnswerView):
                await view.show()

    def _add(self, at: int) -> QuestionView | AnswerView:
        message = self.conversation.messages[at]
        view: QuestionView | AnswerView
        with self._thread:
            if isinstance(message, Question):
                view = QuestionView(message, lambda text: self.edit(message, text))
            else:
                view = AnswerView(message, lambda: self.regenerate(message))
        self._views.append(view)
        return view

    def _welcome(self) -> None:
        with self._thread, ui.element("div").classes("cv-welcome"):
            ui.icon("local_fire_department").classes("cv-mark")
            ui.label("What can I help with?").classes("cv-hello")
            ui.label("Conversations stay in this browser.").classes("cv-quiet")

    # Making an answer

    async def _leave(self) -> None:
        """Stop what is being made, and see it kept."""
        self.stop()
        await self._idle.wait()

    async def _answer(self) -> None:
        conversation = self.conversation
        turn = Turn(self._services.adapter, self._caller, self._request())
        conversation.messages.append(turn.answer)
        view = self._add(len(conversation.messages) - 1)
        assert isinstance(view, AnswerView)
        making = self._making = asyncio.create_task(turn.run())
        self._idle.clear()
        try:
            try:
                await self._keep(conversation)
                await self.store.remember(conversation.id)
                await self._watch(turn, view, conversation, making)
            finally:
                making.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await making
                self._making = None
            if not self._client.is_deleted:
                await view.show()
                await self._keep(conversation)
        finally:
            self._idle.set()

    def _request(self) -> dict[str, Any]:
        servers = self._services.servers
        fields = self.settings.request(tuple(servers.listed()), len(servers) > 0)
        return {**fields, "messages": self.conversation.sent(self.settings.system)}

    async def _watch(
        self, turn: Turn, view: AnswerView, conversation: Conversation, making: asyncio.Task[None]
    ) -> None:
        pause, kept = _TICK, time.monotonic()
        while not self._client.is_deleted:
            await asyncio.wait({making}, timeout=pause)
            if making.done():
                return
            began = time.monotonic()
            turn.catch_up()
            await view.show(turn.wait, self._services.progress.latest, ended=False)
            now = time.monotonic()
            pause = max(_TICK, _DUTY * (now - began))
            if now - kept > _SAVE_EACH and len(turn.answer.text) < _SAVE_MOST:
                await self.store.save(conversation)
                kept = time.monotonic()

    async def _keep(self, conversation: Conversation) -> None:
        if not await self.store.save(conversation):
            with self._client:
                ui.notify(
                    "The browser has no room for this conversation: it is not kept.", position="top", type="warning"
                )
        entry = Entry(id=conversation.id, title=conversation.title, updated=conversation.updated)
        self.entries = [entry, *(one for one in self.entries if one.id != conversation.id)]
        self._changed()
