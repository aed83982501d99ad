"""Which replica has which beginnings of prompts. Must not know of Ray."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

from candle_vllm.batch.lines import prompt_key

__all__ = ["PrefixTable", "prefix_keys"]

_CHUNK = 64
"""Characters of a prompt that a key stands for: half a block of the prefix cache, or so."""
_MOST_KEYS = 128

HolderT = TypeVar("HolderT", bound=Hashable)


def prefix_keys(url: str, body: bytes) -> tuple[bytes, ...]:
    """Keys of ever longer beginnings of a prompt: those of prompts that begin alike begin alike."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(said, dict):
        return ()
    text = prompt_key(url, said, _CHUNK * _MOST_KEYS)
    keys, before = [], b""
    for at in range(0, len(text) - _CHUNK + 1, _CHUNK):
        before = blake2b(before + text[at : at + _CHUNK].encode("utf-8", "surrogatepass"), digest_size=8).digest()
        keys.append(before)
    return tuple(keys)


class PrefixTable(Generic[HolderT]):
    """Who was sent what, of late: the newest `most` keys."""

    def __init__(self, most: int = 1 << 16) -> None:
        self._most = most
        self._holders: OrderedDict[bytes, set[HolderT]] = OrderedDict()

    def add(self, keys: Iterable[bytes], holder: HolderT) -> None:
        """A prompt with these keys went to `holder`."""
        for key in keys:
            self._holders.setdefault(key, set()).add(holder)
            self._holders.move_to_end(key)
        while len(self._holders) > self._most:
            self._holders.popitem(last=False)

    def best(self, keys: Sequence[bytes], among: Iterable[HolderT]) -> set[HolderT]:
        """Those of `among` that have most of the beginning; empty where none has any."""
        able = set(among)
        for key in reversed(keys):
            if found := self._holders.get(key, set()) & able:
                return found
        return set()

    def keep(self, holders: Iterable[HolderT]) -> None:
        """Forget all others: they are gone, and their caches with them."""
        able = set(holders)
        for key in [key for key, found in self._holders.items() if not found <= able]:
            self._holders[key] &= able
            if not self._holders[key]:
                del self._holders[key]
