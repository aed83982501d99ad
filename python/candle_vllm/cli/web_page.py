"""What --ui-server adds to a server: the web page in front of its application, or nothing.

Must not know what is on the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.types import ASGIApp

from candle_vllm.cli.loading import Progress
from candle_vllm.cli.settings import UsageError

__all__ = ["Web", "both", "web_of"]


@dataclass(frozen=True, slots=True)
class Web:
    """How a server is changed by its page."""

    around: Callable[[FastAPI], ASGIApp] = lambda app: app
    """The application with the page, of the one without."""
    progress: Progress | None = None
    """Who else wants to hear how far a load is."""
    socket_bytes: int | None = None
    """Of a message of its web socket at most; None where it has none."""


def web_of(args: argparse.Namespace) -> Web:
    """What the flags ask for. Raises UsageError where the page is not installed."""
    if not args.ui_server:
        return Web()
    try:
        # What uvicorn serves web sockets with.
        import websockets  # noqa: F401

        from candle_vllm.ui import MAX_MESSAGE, LoadProgress, WebPage
    except ModuleNotFoundError as error:
        raise UsageError(f"--ui-server: pip install 'candle-vllm[ui]' first ({error.name} is missing)") from error
    progress = LoadProgress()
    return Web(lambda app: WebPage(app, progress), progress.report, MAX_MESSAGE)


def both(one: Progress | None, other: Progress | None) -> Progress | None:
    """What tells two who may not be there."""
    if one is None or other is None:
        return one or other

    def report(stage: str, done: int, total: int) -> None:
        one(stage, done, total)
        other(stage, done, total)

    return report
