"""A real server over the fake engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from candle_vllm.server import create_app
from fake_engine import FakeEngine
from live_server import LiveServer


@pytest.fixture
def engine() -> FakeEngine:
    """A fresh fake engine."""
    return FakeEngine()


@pytest.fixture
def live(engine: FakeEngine, serve: Callable[..., LiveServer]) -> LiveServer:
    """A server over the fake engine, under the model name ``fake``."""
    return serve(create_app(engine, model_names=["fake"]))
