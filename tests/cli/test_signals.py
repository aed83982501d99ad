"""Signals where loops know none."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from candle_vllm.cli.signals import on_signals


class DeafLoop(asyncio.SelectorEventLoop):
    """As loops are on Windows."""

    def add_signal_handler(self, *_: object) -> None:
        raise NotImplementedError


@pytest.fixture
def handlers() -> Iterator[None]:
    """Leaves the process's handlers as they were."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("loop_factory", [DeafLoop, asyncio.SelectorEventLoop])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_by_the_loop(handlers: None, loop_factory: type, number: int) -> None:
    async def wait() -> bool:
        heard = asyncio.Event()
        on_signals(asyncio.get_running_loop(), heard.set)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(heard.wait(), 10)
        return heard.is_set()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(wait())
