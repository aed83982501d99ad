"""EngineLoader: a catalogue's entry becomes a loaded model, off the event loop. Must not know when, or for whom."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from candle_vllm import sources
from candle_vllm.errors import ModelLoadError
from candle_vllm.models.catalog import CatalogEntry
from candle_vllm.models.loaded import LoadedModel, Notation, Waiting
from candle_vllm.models.observe import UNSEEN, Observer

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

__all__ = ["EngineLoader", "in_daemon_thread"]

ResultT = TypeVar("ResultT")
Progress = Callable[[str, int, int], None]


class EngineLoader:
    """Fetches and loads models, each in a thread that does not keep the process from ending.

    `open_engine` builds the engine of an entry, in that thread (default: `InferenceEngine` with its settings); it is
    given `progress`, which may be set at any time and hears of downloads and loads as `report(stage, done, total)`.
    """

    progress: Progress | None = None

    def __init__(
        self,
        *,
        open_engine: Callable[[CatalogEntry, Progress | None], InferenceEngine] | None = None,
        waiting: Waiting | None = None,
        notation: Notation | None = None,
        observer: Observer = UNSEEN,
    ) -> None:
        self._open = open_engine or _open_engine
        self._notation = notation
        self._waiting = waiting
        self._observer = observer

    async def fetch(self, entry: CatalogEntry) -> None:
        """Have the model's files here, so that loading it needs no network; nothing is read into memory."""
        config = entry.config
        await in_daemon_thread(
            lambda: sources.resolve(
                config.model_path,
                hf_token=config.hf_token,
                token_path=config.hf_token_path,
                revision=config.revision,
                weight_file=config.weight_file,
                progress=self.progress,
            )
        )

    async def load(self, entry: CatalogEntry) -> LoadedModel:
        """The model in memory. Cancelled, it ends at once, and what comes of the load is closed when it comes."""
        return await in_daemon_thread(lambda: self._load(entry), lambda model: model.engine.close())

    def _load(self, entry: CatalogEntry) -> LoadedModel:
        engine = self._open(entry, self.progress)
        try:
            has = engine.model_info.block_size
            if entry.block_size not in (None, has):
                raise ModelLoadError(
                    f"block_size is {entry.block_size}, but the engine's KV blocks hold {has} tokens; leave it out"
                )
            return LoadedModel.over(
                engine,
                names=entry.names,
                defaults=entry.defaults,
                waiting=self._waiting,
                notation=self._notation,
                observer=self._observer,
            )
        except BaseException:
            engine.close()
            raise


def _open_engine(entry: CatalogEntry, progress: Progress | None) -> InferenceEngine:
    from candle_vllm.engine import InferenceEngine

    return InferenceEngine(entry.config, progress=progress)


async def in_daemon_thread(work: Callable[[], ResultT], unwanted: Callable[[ResultT], None] | None = None) -> ResultT:
    """The result of `work`. Unlike a pool's, its thread does not keep the process from ending while it runs.

    When the task is cancelled, or its loop closed, before it has the result, `unwanted` gets that, in a thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ResultT] = loop.create_future()

    def drop(result: ResultT) -> None:
        if unwanted is not None:
            threading.Thread(target=unwanted, args=(result,), name="model", daemon=True).start()

    def succeed(result: ResultT) -> None:
        if done.done():
            drop(result)
        else:
            done.set_result(result)

    def fail(error: BaseException) -> None:
        if not done.done():
            done.set_exception(error)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(succeed, result)
        except RuntimeError:
            # The loop has closed: no one will take it.
            drop(result)

    threading.Thread(target=run, name="model", daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        if done.done() and not done.cancelled() and done.exception() is None:
            drop(done.result())
        raise
