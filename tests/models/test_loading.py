"""From an entry of the catalogue to a loaded model, and what becomes of loads that nobody wants any more."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import EngineConfig
from candle_vllm.errors import ModelLoadError
from candle_vllm.models import CatalogEntry, EngineLoader, LoadedModel, SamplingDefaults, Waiting
from candle_vllm.models.loading import in_daemon_thread
from fake_engine import FakeEngine
from models.fakes import until


def entry(**fields: Any) -> CatalogEntry:
    """A model of this kind."""
    return CatalogEntry(**{"name": "m", "config": EngineConfig(), **fields})


async def test_a_real_model(tiny_model_path: Path) -> None:
    config = EngineConfig(model_path=tiny_model_path, dtype="f32", threads=1, kv_cache_memory=8 << 20)
    tiny = entry(also=("other",), config=config, defaults=SamplingDefaults(top_p=0.5))
    loader = EngineLoader(waiting=Waiting(3, None))
    await loader.fetch(tiny)
    model = await loader.load(tiny)
    try:
        assert (model.names, model.defaults.top_p) == (("m", "other"), 0.5)
        assert (await model.engine.add_request("a").result_async()).tokens
    finally:
        model.engine.close()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"config": EngineConfig(model_path="./nothing-here")}, "no model './nothing-here'"),
    ],
)
async def test_what_cannot_be_fetched(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelLoadError, match=problem):
        await EngineLoader().fetch(entry(**fields))


async def test_another_block_size_is_refused() -> None:
    engine = FakeEngine()
    loader = EngineLoader(open_engine=lambda *_: engine)  # type: ignore[arg-type]
    with pytest.raises(ModelLoadError, match="block_size is 64, but the engine's KV blocks hold 16 tokens"):
        await loader.load(entry(block_size=64))
    assert engine.closed
    assert (await loader.load(entry(block_size=16))).names == ("m",)


async def test_what_fails_in_the_thread_fails_here() -> None:
    def broken(*_: object) -> Any:
        raise ModelLoadError("no")

    with pytest.raises(ModelLoadError, match="no"):
        await EngineLoader(open_engine=broken).load(entry())


async def test_a_load_that_is_cancelled_closes_what_comes_of_it() -> None:
    engine, go_on, begun = FakeEngine(), threading.Event(), threading.Event()

    def slow(*_: object) -> Any:
        begun.set()
        assert go_on.wait(10)
        return engine

    task = asyncio.ensure_future(EngineLoader(open_engine=slow).load(entry()))
    await until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not engine.closed
    go_on.set()
    await until(lambda: engine.closed)


@pytest.mark.parametrize("steps", range(4))
async def test_a_result_that_comes_as_its_task_is_cancelled_is_not_lost(steps: int) -> None:
    """It is taken, or given back: never neither, never both."""
    loop = asyncio.get_running_loop()
    given_back: list[str] = []

    def work() -> str:
        def after(count: int) -> None:
            if count == 0:
                task.cancel()
            else:
                loop.call_soon(after, count - 1)

        loop.call_soon_threadsafe(after, steps)
        return "result"

    task = asyncio.ensure_future(in_daemon_thread(work, given_back.append))
    await asyncio.wait({task})
    taken = [] if task.cancelled() else [task.result()]
    await until(lambda: [*taken, *given_back] == ["result"])


def test_a_loop_that_closed_meanwhile() -> None:
    go_on = threading.Event()
    given_back: list[str] = []

    def work() -> str:
        assert go_on.wait(10)
        return "result"

    async def begin() -> None:
        task = asyncio.ensure_future(in_daemon_thread(work, given_back.append))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(begin())
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "model":
            thread.join(10)
    asyncio.run(until(lambda: given_back == ["result"]))


def test_a_loaded_model_is_made_of_an_engine() -> None:
    model = LoadedModel.over(FakeEngine())
    assert (model.names, model.defaults, model.info.name) == (("fake",), SamplingDefaults(), "fake")
    assert model.admission.waiting == 0
