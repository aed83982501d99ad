"""The form that asks for the API key, and the look at the one that the browser has. Must not know what is behind it."""

from __future__ import annotations

import asyncio

from nicegui import Client, ui

from candle_vllm.server.auth import ANONYMOUS, Keys
from candle_vllm.ui.browser import BrowserStore
from candle_vllm.ui.services import Services
from candle_vllm.ui.turn import Caller

__all__ = ["caller_of"]

_PAUSE = 1.0
"""Seconds after a wrong key: a page may guess one a second."""


async def caller_of(services: Services, client: Client, kept: str | None) -> Caller | None:
    """Who uses this page: at once where the server has no keys, or the browser has `kept` one that fits.

    Otherwise a form asks until one fits. None when the page was left before that.
    """
    address, keys = client.ip, services.entrance.keys
    name = ANONYMOUS if not keys else _holder(keys, kept)
    if name is None:
        store = BrowserStore(client)
        if kept is not None:
            await store.forget_key()
        name = await _asked(keys, client, store, refused=kept is not None)
    return None if name is None else Caller(services.entrance, name, address)


async def _asked(keys: Keys, client: Client, store: BrowserStore, refused: bool) -> str | None:
    given: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    client.on_delete(lambda: given.cancel())
    with ui.element("main").classes("cv-gate") as form, ui.card().classes("cv-card"):
        ui.icon("key").classes("cv-mark")
        ui.label("This server asks for an API key").classes("cv-title")
        box = ui.input("API key", password=True, password_toggle_button=True).props("outlined autofocus")
        box.classes("cv-wide")
        keep = ui.checkbox("Remember it in this browser")
        error = ui.label("The key that this browser kept is not valid any more." if refused else "")
        error.classes("cv-error").props("role=alert").set_visibility(refused)
        button = ui.button("Continue").props("unelevated no-caps").classes("cv-wide")

    async def check() -> None:
        if not button.enabled or not box.value:
            return
        button.disable()
        secret = box.value.strip()
        name = _holder(keys, secret)
        if name is None:
            await asyncio.sleep(_PAUSE)
            error.set_text("Incorrect API key.")
            error.set_visibility(True)
            button.enable()
            return
        await store.save_key(secret, bool(keep.value))
        if not given.done():
            given.set_result(name)

    button.on_click(check)
    box.on("keydown.enter", check)
    try:
        return await given
    except asyncio.CancelledError:
        if not given.cancelled():
            raise
        return None
    finally:
        if not client.is_deleted:
            form.delete()


def _holder(keys: Keys, secret: str | None) -> str | None:
    return None if not secret else keys.holder(secret.encode())
