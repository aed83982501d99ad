"""One engine behind the face that a catalogue of models has."""

from __future__ import annotations

import pytest

from candle_vllm.errors import ConfigError, ModelNotFoundError
from candle_vllm.models import Models, SamplingDefaults, SingleModel, Waiting
from fake_engine import FakeEngine


def single(engine: FakeEngine | None = None, *args: object, **options: object) -> SingleModel:
    """The models under test, over a fake."""
    return SingleModel(engine or FakeEngine(), *args, **options)  # type: ignore[arg-type]


async def test_a_lease_gives_what_requests_need() -> None:
    engine = FakeEngine()
    models: Models = single(engine, ["a", "b"], SamplingDefaults(temperature=0.5), waiting=Waiting(3, 40))
    async with models.lease("b") as model:
        assert model.engine is engine
        assert (model.names, model.defaults.named()) == (("a", "b"), {"temperature": 0.5})
        assert model.templates.choose().render([{"role": "user", "content": "hi"}]).startswith("<|im_start|>user\nhi")
        assert model.fingerprint == single(FakeEngine(), ["a", "b"])._model.fingerprint
        assert model.fingerprint != single(FakeEngine(context=99))._model.fingerprint
        assert models.status().in_flight_requests == 1
        async with models.lease(None) as again:
            assert again is model
            assert models.status().in_flight_requests == 2
    assert models.status().in_flight_requests == 0


@pytest.mark.parametrize("name", [None, "", "anything"])
async def test_without_names_any_name_is_taken(name: str | None) -> None:
    models = single()
    async with models.lease(name) as model:
        assert model.names == ("fake",)
    assert [entry.id for entry in models.listing()] == ["fake"]
    assert await models.select("anything") == "already_active"


async def test_other_names_are_refused() -> None:
    models = single(None, ["a", "b"])
    with pytest.raises(ModelNotFoundError, match=r"'c' does not exist\. Served here: a, b\."):
        async with models.lease("c"):
            pass
    with pytest.raises(ModelNotFoundError):
        await models.select("c")
    assert await models.select("a") == "already_active"
    with pytest.raises(ConfigError, match="names must hold at least one name"):
        single(None, [])


async def test_listing_and_status() -> None:
    engine = FakeEngine(context=77)
    models = single(engine, ["a", "b"])
    assert [(entry.id, entry.max_model_len, entry.active) for entry in models.listing()] == [
        ("a", 77, True),
        ("b", 77, True),
    ]
    assert (models.status().state, models.status().active_model) == ("ready", "a")
    engine.failure = "the device caught fire"
    assert (models.status().state, models.status().last_error) == ("error", "the device caught fire")


async def test_closing_leaves_the_engine_to_its_owner() -> None:
    engine = FakeEngine()
    await single(engine).aclose()
    assert not engine.closed
