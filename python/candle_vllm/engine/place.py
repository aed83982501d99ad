"""Where the model of a configuration is, fetched where needed, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from candle_vllm import _native
from candle_vllm.config import EngineConfig

__all__ = ["fetch", "name"]


def fetch(config: EngineConfig, progress: Callable[[str, int, int], None] | None) -> Path:
    """The folder or file of the model. Raises DeviceError before anything is fetched, and ModelLoadError."""
    from candle_vllm import sources

    _native.check_device(config.device)
    found = sources.resolve(
        config.model_path,
        hf_token=config.hf_token,
        token_path=config.hf_token_path,
        revision=config.revision,
        weight_file=config.weight_file,
        progress=progress,
    )
    return Path(found)


def name(config: EngineConfig, path: Path) -> str:
    """The model as the caller named it: id or alias, or the last part of a local path."""
    given = str(config.model_path)
    return path.resolve().name if Path(given).exists() else given
