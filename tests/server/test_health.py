"""Whether the process answers, whether a model can serve, and whether tokens come."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from candle_vllm.models import Models, ModelState, ModelStatus, SingleModel
from candle_vllm.server.health import DecodeProbe, alive, ready
from fake_engine import FakeEngine


def standing(state: ModelState, there: bool) -> Models:
    """Models in this state, with one loaded or not."""
    status = ModelStatus(state=state, active_model="m" if there else None)
    active = SingleModel(FakeEngine(), ["m"]).active if there else None
    return cast(Models, SimpleNamespace(status=lambda: status, active=active))


@pytest.mark.parametrize(
    ("state", "there", "able"),
    [
        ("ready", True, True),
        ("idle", False, True),
        ("switching", True, True),
        ("loading", False, False),
        ("error", False, False),
    ],
)
def test_states(state: ModelState, there: bool, able: bool) -> None:
    models = standing(state, there)
    assert alive(models).status == "ok"
    assert alive(models).state == state
    assert ready(models).status == ("ready" if able else "not_ready")
    assert (ready(models).engine is not None) is there


async def test_a_token_comes() -> None:
    engine = FakeEngine()
    found = await DecodeProbe(SingleModel(engine, ["m"])).look()
    assert (found.ok, found.status) == (True, "ok")
    assert found.seconds < 1
    assert engine.submitted[0][1].max_tokens == 1
    assert not engine.live


async def test_who_asks_again_soon_costs_nothing() -> None:
    now = 0.0
    engine = FakeEngine()
    probe = DecodeProbe(SingleModel(engine, ["m"]), fresh=5, clock=lambda: now)
    await asyncio.gather(*(probe.look() for _ in range(20)))
    now = 4.9
    await probe.look()
    assert len(engine.submitted) == 1
    now = 5.1
    await probe.look()
    assert len(engine.submitted) == 2


async def test_no_token_comes() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    found = await DecodeProbe(SingleModel(engine, ["m"]), deadline=0.1).look()
    assert not found.ok
    assert "0.1 seconds" in found.status
    assert not engine.live


async def test_a_token_of_other_work_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    stats, count = engine.stats(), iter(range(1000))
    monkeypatch.setattr(engine, "stats", lambda: replace(stats, generated_tokens=next(count) // 3))
    found = await DecodeProbe(SingleModel(engine, ["m"]), deadline=5).look()
    assert found.ok
    assert not engine.live


async def test_an_engine_that_fails() -> None:
    found = await DecodeProbe(SingleModel(FakeEngine(fail_after=0), ["m"])).look()
    assert not found.ok
    assert "caught fire" in found.status


@pytest.mark.parametrize(("state", "ok"), [("idle", True), ("loading", False), ("error", False)])
async def test_nothing_is_loaded_for_a_probe(state: ModelState, ok: bool) -> None:
    found = await DecodeProbe(standing(state, there=False)).look()
    assert (found.ok, found.status) == (ok, state)
