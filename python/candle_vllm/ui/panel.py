"""The settings of a page: system prompt, sampling, tools. Must not know what is done with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui
from pydantic import ValidationError

from candle_vllm.mcp import McpServers
from candle_vllm.ui.settings import FIELDS, NumberField, Settings

__all__ = ["SettingsPanel"]

_EFFORTS = {"": "as the model has it", "none": "none", "low": "low", "medium": "medium", "high": "high"}


class SettingsPanel:
    """A dialog that changes `settings`; `changed` is called after each change."""

    def __init__(self, settings: Settings, servers: McpServers, changed: Callable[[], Awaitable[None]]) -> None:
        self._settings = settings
        self._servers = servers
        self._changed = changed
        with (
            ui.dialog().props("position=right full-height").classes("cv-drawer") as self._dialog,
            ui.card().classes("cv-panel"),
        ):
            with ui.element("div").classes("cv-panel-head"):
                ui.label("Settings").classes("cv-title")
                ui.button(icon="close", on_click=self._dialog.close, color=None).props(
                    'flat round dense aria-label="Close settings"'
                )
            self._system()
            self._sampling()
            with ui.element("section") as self._tools:
                pass

    def open(self) -> None:
        """Show it, with the tools that there are now."""
        self._tools.clear()
        if len(self._servers):
            with self._tools:
                self._show_tools()
        self._dialog.open()

    def _system(self) -> None:
        box = ui.textarea("System prompt", value=self._settings.system, placeholder="How the model should behave")
        box.props("outlined autogrow").classes("cv-wide cv-system")
        box.on("blur", lambda: self._set("system", box.value or ""))

    def _sampling(self) -> None:
        ui.label("Sampling").classes("cv-caption")
        ui.label("Empty: as the server and the model have it.").classes("cv-quiet")
        with ui.element("div").classes("cv-fields"):
            for field in FIELDS:
                self._number(field)
            effort = ui.select(_EFFORTS, label="Reasoning effort", value=self._settings.reasoning_effort or "")
            effort.props("outlined dense options-dense")
            effort.on_value_change(lambda event: self._set("reasoning_effort", event.value or None))

    def _number(self, field: NumberField) -> None:
        box = ui.number(
            field.label,
            value=getattr(self._settings, field.name),
            min=field.least,
            max=field.most,
            step=field.step,
            precision=0 if field.whole else None,
            validation=lambda value: _problem(field, value),
        )
        box.props(f'outlined dense clearable hint="{field.hint}"')

        async def take(value: float | None) -> None:
            if _problem(field, value) is None:
                await self._set(field.name, int(value) if field.whole and value is not None else value)

        box.on_value_change(lambda event: take(event.value))

    def _show_tools(self) -> None:
        ui.label("Tools").classes("cv-caption")
        everything = ui.switch("Let the model call tools", value=self._settings.tools)
        everything.on_value_change(lambda event: self._set("tools", event.value))
        listed = self._servers.listed()
        for server in self._servers.status():
            tools = {name: tool for name, tool in listed.items() if tool.server == server.name}
            with ui.expansion(server.name, icon="dns", caption=server.problem or server.state).classes("cv-fold"):
                if not tools:
                    ui.label("No tools are known of it.").classes("cv-quiet")
                for name, tool in tools.items():
                    switch = ui.switch(tool.name, value=name not in self._settings.tools_off).props("dense")
                    switch.on_value_change(lambda event, name=name: self._switch(name, event.value))
                    with switch:
                        ui.tooltip(tool.description[:500])

    async def _switch(self, name: str, on: bool) -> None:
        off = [one for one in self._settings.tools_off if one != name]
        await self._set("tools_off", off if on else [*off, name])

    async def _set(self, name: str, value: object) -> None:
        try:
            setattr(self._settings, name, value)
        except ValidationError as error:
            ui.notify(error.errors()[0]["msg"], position="top", type="warning")
            return
        await self._changed()


def _problem(field: NumberField, value: float | None) -> str | None:
    if value is None or (field.least <= value <= field.most and (not field.whole or value == int(value))):
        return None
    return f"from {field.least:g} to {field.most:g}"
