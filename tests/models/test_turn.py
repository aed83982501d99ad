"""What a manager keeps of models that failed, of leases and of a switch under way."""

from __future__ import annotations

import pytest

from candle_vllm.errors import ModelLoadError
from candle_vllm.models import LoadedModel
from candle_vllm.models.turn import Active, Failures, Turn, load_error, said
from fake_engine import FakeEngine
from models.fakes import catalog


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for the test to set."""
    time = [1000.0]
    monkeypatch.setattr("candle_vllm.models.turn.time.monotonic", lambda: time[0])
    return time


def test_a_model_that_fails_is_left_alone_longer_each_time(now: list[float]) -> None:
    failures = Failures()
    assert failures.resting("a") is None
    pauses = []
    for _ in range(7):
        failures.note("a", "no")
        resting = failures.resting("a")
        assert resting is not None
        pauses.append(resting)
    assert pauses == [(seconds, "no") for seconds in (2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0)]
    assert failures.resting("b") is None
    now[0] += 59.0
    assert failures.resting("a") == (1.0, "no")
    now[0] += 1.0
    assert failures.resting("a") is None
    failures.note("a", "no")
    failures.forget("a")
    failures.note("a", "again")
    assert failures.resting("a") == (2.0, "again")


def test_leases(now: list[float]) -> None:
    active = Active(catalog("a").default, LoadedModel.over(FakeEngine()))
    first = active.grant()
    now[0] += 3.0
    second = active.grant()
    now[0] += 1.0
    assert sorted(active.ages()) == [1.0, 4.0]
    assert active.release(first) == 4.0
    assert (active.leases, active.last_used) == ({second}, 1004.0)


def test_a_turn_means_something_else_to_each(now: list[float]) -> None:
    mine, other = catalog("a", "b")
    turn = Turn(mine, "fetching")
    heard = []
    for phase in ("fetching", "draining", "unloading", "loading"):
        turn.enter(phase)
        heard.append((turn.phase_for(mine), turn.phase_for(other), turn.phase_elapsed))
        now[0] += 2.0
    assert heard == [("waiting_for_model", "queued", 0.0)] * 3 + [("loading", "queued", 0.0)]
    assert (turn.elapsed, turn.phase_elapsed) == (8.0, 2.0)


def test_errors_say_something() -> None:
    assert (said(ValueError("x")), said(KeyError())) == ("x", "KeyError")
    cause = ValueError("x")
    error = load_error(catalog("a").default, "x", cause)
    assert isinstance(error, ModelLoadError)
    assert (str(error), error.__cause__, error.retry_after) == ("the model 'a' could not be loaded: x", cause, None)
