"""BatchProcessor by itself: columns in, columns out, the same replies as the adapter's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_vllm import EngineConfig, InferenceEngine
from candle_vllm.errors import ConfigError
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.ray.data import BatchProcessor


def request(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": [row["token"], 5, 6], "max_tokens": 6, "temperature": 1.0, "seed": row["token"]}


def test_a_batch(tiny_model_path: Path, tiny_engine: InferenceEngine) -> None:
    config = EngineConfig(model_path=str(tiny_model_path), dtype="f32", threads=1, kv_cache_memory=64 << 20)
    processor = BatchProcessor(config, request, "/v1/completions")
    batch = {"token": np.arange(3, 40), "name": np.array([f"n{at}" for at in range(3, 40)], dtype=object)}
    try:
        found = processor(batch)
    finally:
        processor.close()
    assert list(found) == ["token", "name", "status_code", "response"]
    assert list(found["name"]) == list(batch["name"])
    assert set(found["status_code"]) == {200}
    adapter = OpenAIAdapter(tiny_engine)
    expected = [adapter.completion(request({"token": token})).choices[0].text for token in range(3, 40)]
    assert [json.loads(one)["choices"][0]["text"] for one in found["response"]] == expected
    adapter.close()


def test_urls_are_checked_before_a_model_is_loaded() -> None:
    with pytest.raises(ConfigError, match="/v1/completions"):
        BatchProcessor(EngineConfig(model_path="/nowhere"), url="/v1/embeddings")
