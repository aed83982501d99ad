"""The page on which one chats: conversations at the side, messages, the box to write in, model and settings above.

Must not know how answers are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from nicegui import ui
from nicegui.events import GenericEventArguments, KeyEventArguments

from candle_vllm.openai.errors import api_error
from candle_vllm.ui.browser import BrowserStore, Stored
from candle_vllm.ui.chat import Chat
from candle_vllm.ui.key_form import caller_of
from candle_vllm.ui.panel import SettingsPanel
from candle_vllm.ui.services import Services, services_in
from candle_vllm.ui.turn import Caller
from candle_vllm.ui.words import state_of

__all__ = ["ICON", "PATH", "begin"]

PATH = "/"
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect x="11" y="15" width="10" height="15" rx="2" '
    'fill="#f0c9a8"/><path d="M16 2c4 4 5 6 5 8a5 5 0 0 1-10 0c0-2 1-4 5-8z" fill="#d9480f"/></svg>'
)
_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_ENTER = """(event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  emit(event.target.value);
}"""
"""Enter sends what stands in the box at that moment; with Shift it stays what it is, and while a word is composed."""


async def begin(request: Request) -> tuple[Services, Caller, Stored] | None:
    """What every page begins with: its style, its server, and who uses it. None when it was left before that."""
    services, client = services_in(request.scope), ui.context.client
    ui.colors(primary="#d9480f")
    ui.add_css(_STYLE)
    await client.connected()
    stored = await BrowserStore(client).read()
    caller = await caller_of(services, client, stored.key)
    return None if caller is None else (services, caller, stored)


@ui.page(PATH, title="candle-vllm")
async def chat(request: Request) -> None:
    """Show it."""
    if (begun := await begin(request)) is not None:
        shown = _ChatPage(*begun)
        if (name := begun[2].open) is not None:
            await shown.open(name)


class _ChatPage:
    def __init__(self, services: Services, caller: Caller, stored: Stored) -> None:
        self._services = services
        self._settings = stored.settings
        self._dark = ui.dark_mode(stored.settings.dark)
        self._panel = SettingsPanel(stored.settings, services.servers, self._save_settings)
        with ui.element("div").classes("cv-app"):
            with ui.element("aside").classes("cv-side").props('aria-label="Conversations"') as self._side:
                self._sidebar()
            self._veil = ui.element("div").classes("cv-veil").on("click", self._fold)
            with ui.element("main").classes("cv-main"):
                self._header()
                with ui.element("div").classes("cv-scroll"):
                    self._chat = Chat(services, ui.context.client, caller, stored.settings, self._changed)
                self._composer()
        self._question()
        self._chat.entries = stored.entries
        ui.keyboard(self._key, ignore=[], repeating=False)
        ui.timer(1.0, self._look)
        self._look()
        self._changed()

    # Parts

    def _sidebar(self) -> None:
        with ui.element("div").classes("cv-brand"):
            ui.html(ICON, sanitize=False, tag="span").classes("cv-logo")
            ui.label("candle-vllm").classes("cv-title")
        ui.button("New chat", icon="add", on_click=self._new).props("outline no-caps align=left").classes("cv-wide")
        with ui.element("nav").classes("cv-list") as self._list:
            pass
        with ui.element("div").classes("cv-side-foot"):
            ui.link("Server figures", "/operator").classes("cv-quiet")
            self._dark_button = ui.button(icon="dark_mode", on_click=self._switch_dark, color=None).props(
                'flat round dense aria-label="Light or dark"'
            )

    def _question(self) -> None:
        """Asks before a conversation is deleted."""
        with ui.dialog() as self._sure, ui.card():
            self._doubt = ui.label()
            with ui.row().classes("cv-edit-buttons"):
                ui.button("Cancel", on_click=lambda: self._sure.submit(False)).props("flat no-caps")
                ui.button("Delete", on_click=lambda: self._sure.submit(True)).props("unelevated no-caps color=negative")

    def _header(self) -> None:
        with ui.element("header").classes("cv-top"):
            ui.button(icon="menu", on_click=self._unfold, color=None).props(
                'flat round dense aria-label="Conversations"'
            ).classes("cv-menu")
            self._models = ui.select([], on_change=lambda event: self._select(event.value))
            self._models.props('dense outlined options-dense aria-label="Model"').classes("cv-models")
            with ui.element("div").classes("cv-state").props("role=status"):
                self._dot = ui.icon("circle", size="0.7em")
                self._state = ui.label()
            ui.button(icon="tune", on_click=self._panel.open, color=None).props(
                'flat round dense aria-label="Settings"'
            )

    def _composer(self) -> None:
        with ui.element("footer").classes("cv-composer"), ui.element("div").classes("cv-box"):
            self._box = ui.textarea(placeholder="Message").props(
                'borderless autogrow dense autofocus aria-label="Message"'
            )
            self._box.classes("cv-input").on("keydown", self._send, js_handler=_ENTER)
            self._button = ui.button(icon="arrow_upward", on_click=self._press).props("round unelevated")

    # What happens

    async def _send(self, event: GenericEventArguments) -> None:
        await self._ask(str(event.args or ""))

    async def _press(self) -> None:
        if self._chat.busy:
            self._chat.stop()
        else:
            await self._ask(self._box.value or "")

    async def _ask(self, text: str) -> None:
        if self._chat.accepts(text):
            # The browser may have told of the last letters, or not.
            self._box.value = text
            self._box.value = ""
            await self._chat.ask(text)

    def _key(self, event: KeyEventArguments) -> None:
        if event.action.keydown and event.key.escape:
            self._chat.stop()

    async def _new(self) -> None:
        self._fold()
        await self._chat.new()

    async def open(self, name: str) -> None:
        """Show a conversation of the browser's."""
        self._fold()
        await self._chat.open(name)

    async def _delete(self, name: str, title: str) -> None:
        self._doubt.set_text(f"Delete “{title}”?")
        if await self._sure:
            await self._chat.delete(name)

    async def _select(self, name: Any) -> None:
        if not name or name == self._settings.model:
            return
        self._settings.model = name
        await self._save_settings()
        try:
            await self._services.adapter.served.select(name)
        except Exception as error:
            ui.notify(api_error(error).message, position="top", type="warning")
        self._look()

    async def _save_settings(self) -> None:
        await self._chat.store.save_settings(self._settings)

    async def _switch_dark(self) -> None:
        order = {None: True, True: False, False: None}
        self._dark.value = self._settings.dark = order[self._settings.dark]
        self._changed()
        await self._save_settings()

    def _fold(self) -> None:
        self._side.classes(remove="cv-open")
        self._veil.classes(remove="cv-open")

    def _unfold(self) -> None:
        self._side.classes(add="cv-open")
        self._veil.classes(add="cv-open")

    # What is shown

    def _look(self) -> None:
        """Show how the models stand."""
        models, progress = self._services.adapter.served, self._services.progress
        status = models.status()
        if status.state in ("ready", "idle"):
            progress.clear()
        text, color = state_of(status, progress.latest)
        self._state.set_text(text)
        self._dot.props(f"color={color}")
        names = [entry.id for entry in models.listing()]
        if self._settings.model not in names:
            self._settings.model = status.active_model if status.active_model in names else names[0] if names else ""
        if names != self._models.options or self._models.value != self._settings.model:
            self._models.set_options(names, value=self._settings.model or None)

    def _changed(self) -> None:
        """Show the list of conversations, and whether an answer is being made."""
        busy = self._chat.busy
        self._button.props(f"icon={'stop' if busy else 'arrow_upward'} aria-label={'Stop' if busy else 'Send'}")
        mode = {None: "brightness_auto", True: "dark_mode", False: "light_mode"}
        self._dark_button.props(f"icon={mode[self._settings.dark]}")
        shown = [(one.id, one.title, one.id == self._chat.conversation.id) for one in self._chat.entries]
        if shown == getattr(self, "_shown", None):
            return
        self._shown = shown
        self._list.clear()
        with self._list:
            for name, title, active in shown:
                with ui.element("div").classes("cv-entry" + " cv-active" * active):
                    ui.button(title or "Untitled", on_click=lambda name=name: self.open(name), color=None).props(
                        "flat no-caps align=left"
                    )
                    ui.button(
                        icon="delete", on_click=lambda name=name, title=title: self._delete(name, title), color=None
                    ).props('flat round dense size=sm aria-label="Delete conversation"')
