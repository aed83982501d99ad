"""A page without a browser: what a test builds, and what stands on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from nicegui import Client, core, ui
from nicegui.page import page

T = TypeVar("T", bound=ui.element)


@contextmanager
def blank_page() -> Iterator[Client]:
    """A client whose page elements are put on; needs a running loop."""
    before, core.loop = core.loop, asyncio.get_running_loop()
    client = Client(page("/nowhere"), request=None)
    try:
        with client:
            yield client
    finally:
        client.delete()
        core.loop = before


def of(client: Client, kind: type[T]) -> list[T]:
    """The elements of a kind, in the order they were made, but for hidden ones."""
    return [one for one in list(client.elements.values()) if isinstance(one, kind) and one.visible]


def said(client: Client) -> list[str]:
    """What visible labels say."""
    return [label.text for label in of(client, ui.label) if label.text]


def press(button: ui.button) -> None:
    """Click, as a browser tells it."""
    for number, listener in list(button._event_listeners.items()):
        if listener.type == "click":
            button.client.handle_event({"id": button.id, "client_id": "", "listener_id": number, "args": {}})


def named(client: Client, name: str) -> ui.button:
    """The button with this text, or this name for those who do not see it."""
    return next(one for one in of(client, ui.button) if name in (one.text, one.props.get("aria-label")))
