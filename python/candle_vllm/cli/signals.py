"""Ctrl-C and the polite request to end, heard by an asyncio loop, also where loops know no signals (Windows)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

__all__ = ["on_signals"]


def on_signals(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Run `act` in the loop on SIGINT and SIGTERM. To be called in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, act)
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))
