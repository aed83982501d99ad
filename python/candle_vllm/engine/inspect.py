"""Looking at a model without loading it."""

from __future__ import annotations

from collections.abc import Callable

from candle_vllm import _native, checks
from candle_vllm.config import EngineConfig
from candle_vllm.engine import place
from candle_vllm.records import ModelReport

__all__ = ["inspect_model"]


def inspect_model(config: EngineConfig, *, progress: Callable[[str, int, int], None] | None = None) -> ModelReport:
    """What the model of `config` is, whether it would load and whether it would fit, without loading it.

    It is fetched where needed; `progress(stage, done, total)` is told of that. The sizes are those that loading with
    `config` comes to, for one sequence of its `max_sequence_length` (default: the longest that the model was made for).
    A model that is not supported has its reasons in `problems`; files that are broken raise ModelLoadError, settings
    that are wrong ConfigError and DeviceError.
    """
    from candle_vllm import sources

    if not isinstance(config, EngineConfig):
        checks.refuse("config", config, "an EngineConfig")
    path = place.fetch(config, progress)
    facts = _native.inspect(config, str(path))
    advice = facts.pop("generation_config") or sources.recommended_sampling(path)
    return ModelReport(name=place.name(config, path), path=str(path), generation_config=advice, **facts)
