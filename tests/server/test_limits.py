"""Headers, places and rates."""

from __future__ import annotations

import pytest

from asgi import scope
from candle_vllm.openai import ApiError
from candle_vllm.server import limits
from candle_vllm.server.limits import Limits, Places, Rates, check_headers


def test_headers() -> None:
    bounds = Limits(header_count=3, header_bytes=100)
    check_headers(scope(headers=[(b"a", b"b"), (b"c", b"d")]), bounds)
    for headers in ([(b"a", b"b")] * 3, [(b"a", b"b" * 90)]):
        with pytest.raises(ApiError) as error:
            check_headers(scope(headers=headers), bounds)
        assert error.value.status == 431


def test_places_in_all() -> None:
    places = Places(Limits(concurrency=2))
    with places.place("a"), places.place("b"):
        with pytest.raises(ApiError) as error, places.place("c"):
            pass
        assert (error.value.status, error.value.type, error.value.retry_after) == (503, "server_busy", 1)
        assert places.taken == 2
    assert places.taken == 0


def test_places_of_a_caller() -> None:
    places = Places(Limits(caller_concurrency=1))
    with places.place("a"):
        with pytest.raises(ApiError) as error, places.place("a"):
            pass
        assert error.value.status == 429
        with places.place("b"):
            pass
    with pytest.raises(KeyError), places.place("a"):
        raise KeyError
    with places.place("a"):
        assert places.taken == 1


def test_rates() -> None:
    now = 0.0
    rates = Rates(30, lambda: now)
    for _ in range(30):
        rates.take("a")
    with pytest.raises(ApiError) as error:
        rates.take("a")
    assert (error.value.status, error.value.retry_after) == (429, 2)
    rates.take("b")
    now = 2.0
    rates.take("a")
    with pytest.raises(ApiError):
        rates.take("a")
    now = 1000.0
    for _ in range(30):
        rates.take("a")
    with pytest.raises(ApiError):
        rates.take("a")


def test_a_rate_below_one_a_minute() -> None:
    now = 0.0
    rates = Rates(0.5, lambda: now)
    rates.take("a")
    with pytest.raises(ApiError) as error:
        rates.take("a")
    assert error.value.retry_after == 120
    now = 120.0
    rates.take("a")


def test_callers_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_CALLERS", 5)
    rates = Rates(1, lambda: 0.0)
    for number in range(100):
        rates.take(str(number))
    with pytest.raises(ApiError):
        rates.take("99")
    rates.take("0")
