"""A catalogue, a loader whose loads end when the test says so, and an observer that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from candle_vllm import EngineConfig
from candle_vllm.models import Catalog, CatalogEntry, LoadedModel, ModelManager, WaitStatus
from fake_engine import FakeEngine


def catalog(*names: str, **options: Any) -> Catalog:
    """Models of these names."""
    return Catalog([CatalogEntry(name=name, ids=(f"org/{name}",), config=EngineConfig()) for name in names], **options)


class Loader:
    """Loads end at once, unless `hold` was called for the model; then with `release`. `broken` ones fail.

    `log` tells what was done, in order; at no time may two engines be open.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.engines: dict[str, FakeEngine] = {}
        self.broken: dict[str, Exception] = {}
        self._gates: dict[str, asyncio.Event] = {}

    def hold(self, step: str) -> None:
        """Let `load a` or `fetch a` wait."""
        self._gates[step] = asyncio.Event()

    def release(self, step: str) -> None:
        """Let it end."""
        self._gates.pop(step).set()

    async def fetch(self, entry: CatalogEntry) -> None:
        await self._step(f"fetch {entry.name}")

    async def load(self, entry: CatalogEntry) -> LoadedModel:
        open_now = [name for name, engine in self.engines.items() if not engine.closed]
        assert not open_now, f"{open_now} still in memory while {entry.name} loads"
        await self._step(f"load {entry.name}")
        self.engines[entry.name] = engine = _LoggedEngine(entry.name, self.log)
        return LoadedModel.over(engine, names=entry.names)

    async def _step(self, step: str) -> None:
        self.log.append(step)
        if step in self._gates:
            try:
                await self._gates[step].wait()
            except asyncio.CancelledError:
                self.log.append(f"cancelled {step}")
                raise
        if step in self.broken:
            raise self.broken[step]


class _LoggedEngine(FakeEngine):
    """Its end is told."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.name = name
        self._log = log

    def close(self) -> None:
        if not self.closed:
            self._log.append(f"close {self.name}")
        super().close()


class Seen:
    """An observer that remembers; the last queue lengths apart."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.lengths: dict[str, int] = {}

    def queue_length(self, model: str, waiting: int) -> None:
        self.lengths[model] = waiting

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*arguments: Any) -> None:
            self.told.append((name, *(one for one in arguments if not isinstance(one, float))))

        return tell


class User:
    """One request: it takes its lease, keeps it until `done` is set, and remembers what it heard."""

    def __init__(self, manager: ModelManager, name: str | None, **how: Any) -> None:
        self.heard: list[WaitStatus] = []
        self.done = asyncio.Event()
        self.got: LoadedModel | None = None
        self.task = asyncio.ensure_future(self._run(manager, name, how))

    async def _run(self, manager: ModelManager, name: str | None, how: dict[str, Any]) -> str:
        async with manager.lease(name, on_status=self.heard.append, **how) as self.got:
            await self.done.wait()
            return self.got.names[0]

    async def end(self) -> str:
        """Let it end; the name of the model that it had."""
        self.done.set()
        return await self.task


@asynccontextmanager
async def managed(loader: Loader, models: Catalog, **options: Any) -> AsyncIterator[ModelManager]:
    """A manager that is closed at the end."""
    manager = ModelManager(models, loader.load, fetch=loader.fetch, **options)
    async with asyncio.timeout(20):
        try:
            yield manager
        finally:
            await manager.aclose()


async def finish(*users: User) -> list[str]:
    """Let them all end, in whatever order they can; the models that they had."""
    for user in users:
        user.done.set()
    return await asyncio.gather(*(user.task for user in users))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until this is so."""
    async with asyncio.timeout(10):
        for _ in iter(lambda: bool(condition()), True):
            await asyncio.sleep(0.001)
