"""Lines of the log, as text and as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi import call, scope
from candle_vllm.server import logs
from candle_vllm.server.boundary import wrap

logger = logging.getLogger("candle_vllm.server")


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Logging as it was, after each test."""
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("candle_vllm").level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("candle_vllm").setLevel(ours)


async def chatty(scope: object, receive: object, send: object) -> None:
    logger.debug("details")
    logger.info("inside")
    raise KeyError("a fault")


async def test_every_line_of_a_request_bears_its_id(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up("info", files=[file])
    logger.info("before")
    await call(wrap(chatty), scope(headers=[(b"x-request-id", b"mine")]))
    lines = file.read_text(encoding="utf-8").splitlines()
    assert "[-] before" in lines[0]
    marked = [line for line in lines if "candle_vllm." in line and "before" not in line]
    assert len(marked) == 3
    assert all("[mine]" in line for line in marked)
    assert "details" not in "".join(lines)


async def test_json(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up("debug", json_lines=True, files=[file])
    await call(wrap(chatty), scope("/a\nb", headers=[(b"x-request-id", b"mine")]))
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["request_id"] for line in lines] == ["mine"] * 4
    details, inside, fault, access = lines
    assert (details["level"], details["message"]) == ("debug", "details")
    assert inside["time"] <= fault["time"]
    assert "KeyError: 'a fault'" in fault["trace"]
    assert (access["path"], access["status"], access["logger"]) == ("/a\nb", 500, "candle_vllm.access")


@pytest.mark.parametrize("level", logs.LEVELS)
def test_levels(level: str, tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up(level, files=[file])
    for one in logs.LEVELS:
        logger.log(getattr(logging, one.upper()), "said %s", one)
    said = [line.rsplit(" ", 1)[1] for line in file.read_text(encoding="utf-8").splitlines()]
    assert said == list(logs.LEVELS[logs.LEVELS.index(level) :])


def test_others_are_heard_from_warnings_on(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up("debug", files=[file])
    logging.getLogger("httpx").info("noise")
    logging.getLogger("httpx").warning("news")
    assert file.read_text(encoding="utf-8").count("\n") == 1
