"""How long one will wait, from what was measured."""

from __future__ import annotations

from candle_vllm.models.forecast import Forecast, total


def test_nothing_is_foretold_of_what_was_never_measured() -> None:
    forecast = Forecast()
    assert (forecast.load("a"), forecast.drain("a", [1.0]), forecast.turns(["a"])) == (None, None, None)
    assert (forecast.drain("a", []), forecast.turns([])) == (0.0, 0.0)


def test_loads() -> None:
    forecast = Forecast()
    forecast.loaded("a", 8.0)
    assert (forecast.load("a"), forecast.load("a", 3.0)) == (8.0, 5.0)
    # Another model is taken to load as fast, until it has been loaded itself.
    assert forecast.load("b") == 8.0
    forecast.loaded("b", 2.0)
    assert (forecast.load("a"), forecast.load("b")) == (8.0, 2.0)


def test_a_drain_ends_with_its_last_lease() -> None:
    forecast = Forecast()
    forecast.stayed("a", 10.0)
    assert forecast.drain("a", [1.0, 4.0, 9.0]) == 9.0
    assert forecast.drain("a", [4.0]) == 6.0


def test_the_turns_of_others() -> None:
    forecast = Forecast()
    forecast.loaded("a", 2.0)
    forecast.stayed("a", 3.0)
    assert forecast.turns(["a"]) == 5.0
    assert forecast.turns(["a", "b"]) is None
    forecast.stayed("b", 1.0)
    assert forecast.turns(["a", "b"]) == 8.0


def test_total() -> None:
    assert total() == 0.0
    assert total(1.0, 2.0) == 3.0
    assert total(1.0, None) is None
