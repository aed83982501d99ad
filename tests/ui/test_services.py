"""How a page finds its server."""

from __future__ import annotations

import pytest

from candle_vllm.server import BoundarySettings, create_app, parse_keys
from candle_vllm.ui.services import SCOPE_KEY, Services, services_in
from fake_engine import FakeEngine


def test_services_are_those_of_the_application() -> None:
    app = create_app(FakeEngine(), boundary=BoundarySettings(api_keys=parse_keys(["alice sk"])))
    services = Services.of(app)
    assert services.adapter is app.state.adapter
    assert services.entrance.keys.holder(b"sk") == "alice"
    assert services_in({SCOPE_KEY: services}) is services


def test_a_page_of_no_server() -> None:
    with pytest.raises(RuntimeError, match="none of the servers"):
        services_in({})
