"""BatchProcessor: a table of requests answered batch by batch, for `Dataset.map_batches`.

Must not know how a table is cut or where its parts run: that is Ray Data's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from candle_vllm.batch import Answered, Answering
from candle_vllm.batch.answer import ROWS
from candle_vllm.config import EngineConfig
from candle_vllm.engine import InferenceEngine
from candle_vllm.errors import ConfigError
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.openai.bridge import Bridge

__all__ = ["BatchProcessor"]


class BatchProcessor:
    """Answers each row of a batch: a class for `map_batches`, each worker of which loads one engine.

    ``dataset.map_batches(BatchProcessor, fn_constructor_kwargs={"engine": EngineConfig(...), "request": make},
    batch_size=64, compute=ActorPoolStrategy(size=2))``. ``request`` makes of a row, a mapping of its columns, the body
    that ``url`` takes; the row is the body where it is None. The columns of a batch stay, and two come with it:
    ``status_code``, as a server would have it, and ``response``, the reply's JSON text. Rows of a batch run together.
    """

    def __init__(
        self,
        engine: EngineConfig,
        request: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        url: str = "/v1/chat/completions",
    ) -> None:
        if url not in ROWS:
            raise ConfigError(f"url must be one of {', '.join(ROWS)}; got {url!r}")
        self._request = request or dict
        self._url = url
        self._engine = InferenceEngine(engine)
        self._answer = Answering(OpenAIAdapter(self._engine))
        self._bridge = Bridge()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its answers. Raises UnansweredError where the engine fails."""
        columns = {name: _plain(values) for name, values in batch.items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        answers = self._bridge.call(self._answers([self._request(row) for row in rows]))
        return {
            **batch,
            "status_code": [answer.status for answer in answers],
            "response": [answer.body for answer in answers],
        }

    async def _answers(self, bodies: list[Mapping[str, Any]]) -> list[Answered]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._answer(self._url, body)) for body in bodies]
        return [task.result() for task in tasks]

    def close(self) -> None:
        """Give the engine's memory back."""
        self._bridge.close()
        self._engine.close()


def _plain(values: Any) -> list[Any]:
    """A column as Python's own values."""
    return list(values.tolist() if hasattr(values, "tolist") else values)
