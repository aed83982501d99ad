"""Logs: what a line looks like, as text or as JSON, with the id of the request that it belongs to.

Only a program that is a server sets logging up; a library leaves it to whoever imports it.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from candle_vllm.server import request_id

__all__ = ["LEVELS", "JsonFormatter", "RequestIds", "set_up"]

LEVELS = ("debug", "info", "warning", "error")
"""Names of levels, from the most to the least that is said."""

_TEXT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


def set_up(level: str = "info", *, json_lines: bool = False, files: Iterable[str | Path] = ()) -> None:
    """Send the logs of this process to standard error and to these files. Replaces what was set up before."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers += [logging.FileHandler(file, encoding="utf-8") for file in files]
    formatter = JsonFormatter() if json_lines else logging.Formatter(_TEXT)
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(RequestIds())
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger("candle_vllm").setLevel(level.upper())


class RequestIds(logging.Filter):
    """Gives each record the id of the request in whose work it was written."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        record.request_id = request_id.current.get()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line; the facts of an access line are fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            **(getattr(record, "facts", None) or {"message": record.getMessage()}),
        }
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)
