"""What is fetched already: the default model, and the models in Hugging Face's cache. Fetches nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from candle_vllm.errors import ModelLoadError
from candle_vllm.sources import embedded, hub

__all__ = ["Fetched", "fetched"]

_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class Fetched:
    """One model on this machine."""

    name: str
    """As `resolve` takes it."""
    size: int
    """Bytes on disk."""
    path: Path
    """The folder that is this model's alone."""
    used: float
    """When its files were last read, or changed where the system does not tell; seconds since 1970."""

    def remove(self) -> None:
        """Delete it; raises ModelLoadError where that fails."""
        # The library deletes by commit, which copies of a repository share: this one's folder is meant.
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise ModelLoadError(f"cannot delete {self.name}: {error}") from error


def fetched(cache: Path, default_name: str) -> list[Fetched]:
    """All that is there; `cache` holds the default model, whose name is `default_name`."""
    return [*_default(embedded.place(cache), default_name), *_repositories(hub.cache_folder())]


def _default(file: Path, name: str) -> Iterator[Fetched]:
    if file.is_file():
        facts = file.stat()
        used = max(facts.st_atime, facts.st_mtime)
        yield Fetched(name, facts.st_size, file.parent, used)


def _repositories(cache: Path) -> Iterator[Fetched]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        info = scan_cache_dir(cache)
    except CacheNotFound:
        return
    for repo in info.repos:
        names = {file.file_name for revision in repo.revisions for file in revision.files}
        if repo.repo_type == "model" and any(name.endswith(_WEIGHTS) for name in names):
            yield Fetched(repo.repo_id, repo.size_on_disk, repo.repo_path, repo.last_accessed)
