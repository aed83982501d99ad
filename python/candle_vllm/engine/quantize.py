"""Writing a model as one GGUF file of another type."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from candle_vllm import _native, checks
from candle_vllm.config import EngineConfig
from candle_vllm.engine import place

__all__ = ["quantize_model"]


def quantize_model(
    config: EngineConfig,
    out: str | os.PathLike[str],
    kind: str,
    *,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Write the model of `config` to `out` as a GGUF file that llama.cpp loads too; its size in bytes.

    `kind` is a type that `EngineConfig.isq` takes, and matrices become what that would make of them while loading; or
    `bf16`, `f16` or `f32`, which all of them become. The model is fetched where needed; `progress(stage, done, total)`
    is told of that and of bytes written. `out` appears only when it is complete; a file that is there is an error
    without `force`. Raises ConfigError, ModelLoadError before anything is written where the model cannot be, OSError.
    """
    if not isinstance(config, EngineConfig):
        checks.refuse("config", config, "an EngineConfig")
    target = Path(out)
    if target.is_dir() or not target.parent.is_dir():
        checks.refuse("out", str(target), "a file in a folder that exists")
    if target.exists() and not force:
        checks.refuse("out", str(target), "a new file, or force set to replace the one that is there")
    source = place.fetch(config, progress)
    if target.exists() and source.is_file() and target.samefile(source):
        checks.refuse("out", str(target), "another file than the model's own")
    return _native.quantize(source, target, kind, config.threads, progress)
