"""Catalog: the models that a server may serve, by name. Must not know of files, nor of how a model is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from candle_vllm.config import EngineConfig
from candle_vllm.errors import ConfigError, ModelNotFoundError
from candle_vllm.models.defaults import SamplingDefaults

__all__ = ["Catalog", "CatalogEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One model: under which names, from where, and how it is to be run."""

    name: str
    """What requests and listings call it."""
    config: EngineConfig
    also: tuple[str, ...] = ()
    """Further names of it, listed beside the first."""
    ids: tuple[str, ...] = ()
    """What requests may call it too, though no listing shows it: where it comes from."""
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    """For what a request leaves out."""
    block_size: int | None = None
    """Tokens of a KV block that the engine must have; None = any."""
    notes: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that requests may call it, the main name first."""
        return (self.name, *self.also, *self.ids)


class Catalog:
    """Entries in order; the first is the default. Raises ConfigError for none, and for a name given twice."""

    def __init__(self, entries: Sequence[CatalogEntry], *, idle_unload_secs: float | None = None) -> None:
        if not entries:
            raise ConfigError("models must hold at least one model; got none")
        self._entries = tuple(entries)
        self._by_name: dict[str, CatalogEntry] = {}
        for entry in entries:
            for name in (entry.name, *entry.also):
                if name in self._by_name:
                    raise ConfigError(f"models: the name {name!r} is given twice")
                self._by_name[name] = entry
        owners: dict[str, list[CatalogEntry]] = {}
        for entry in entries:
            for name in entry.ids:
                owners.setdefault(name, []).append(entry)
        # What could mean two models means neither, and a name goes before an id.
        for name, sharing in owners.items():
            if len(sharing) == 1:
                self._by_name.setdefault(name, sharing[0])
        self.idle_unload_secs = idle_unload_secs
        """Seconds without a request after which the active model is unloaded; None = never."""

    @property
    def default(self) -> CatalogEntry:
        """The model of requests that name none while none is active."""
        return self._entries[0]

    def find(self, name: str) -> CatalogEntry:
        """The entry of this name; ModelNotFoundError when there is none."""
        entry = self._by_name.get(name)
        if entry is None:
            raise ModelNotFoundError.among(name, [entry.name for entry in self._entries])
        return entry

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
