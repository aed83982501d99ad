"""API keys: who may come in, and under which name its use is counted.

Once a key is set everything but `/health` is denied without one. Must not know of endpoints.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import Scope

from candle_vllm.openai import ApiError
from candle_vllm.server.paths import route_path

__all__ = ["ANONYMOUS", "OPEN_PATHS", "ApiKey", "Keys", "parse_keys", "read_key_file"]

OPEN_PATHS = frozenset({"/health"})
"""Paths that answer without a key."""
ANONYMOUS = ""
"""Name of callers without a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A secret and the name under which its use is counted and logged."""

    name: str
    secret: str = field(repr=False)


def parse_keys(entries: Iterable[str]) -> tuple[ApiKey, ...]:
    """Keys of entries `SECRET` or `NAME SECRET`. Raises ValueError, which never shows a secret.

    Without a name a key is called by the beginning of its hash, which is the same at every start.
    """
    keys: dict[str, ApiKey] = {}
    for entry in entries:
        words = entry.split()
        if len(words) not in (1, 2):
            raise ValueError("an API key is written KEY or NAME KEY, without further spaces")
        secret = words[-1]
        if not (secret.isascii() and secret.isprintable()) or "," in secret:
            raise ValueError("an API key consists of visible ASCII characters without a comma")
        name = words[0] if len(words) == 2 else "key-" + hashlib.sha256(secret.encode()).hexdigest()[:8]
        if name in keys and keys[name].secret != secret:
            raise ValueError(f"two API keys have the name {name!r}")
        keys[name] = ApiKey(name, secret)
    return tuple(keys.values())


def read_key_file(path: str | Path) -> list[str]:
    """The entries of a file, one a line; empty lines and lines that begin with `#` are left out. May raise OSError."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class Keys:
    """The keys of a server. Without any, everyone may come in, as `ANONYMOUS`."""

    def __init__(self, keys: Sequence[ApiKey] = ()) -> None:
        self._names = [key.name for key in keys]
        self._digests = [_digest(key.secret.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def caller(self, scope: Scope) -> str:
        """Name of the key that a request came with. Raises ApiError 401 where it needs one and has none that fits."""
        if not self._digests or route_path(scope) in OPEN_PATHS:
            return ANONYMOUS
        presented = _presented(scope)
        if not presented:
            raise _refused(
                "You didn't provide an API key. Send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'."
            )
        if len(presented) > 1:
            raise _refused("The request carries several API keys; send one.")
        name = self.holder(presented.pop())
        if name is None:
            raise _refused("Incorrect API key provided.")
        return name

    def holder(self, secret: bytes) -> str | None:
        """Name of the key with this secret, None where there is none.

        Takes the same time whichever key fits, if any, and whatever the secret has in common with one.
        """
        digest = _digest(secret)
        found: str | None = None
        for name, known in zip(self._names, self._digests, strict=True):
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _presented(scope: Scope) -> set[bytes]:
    """Every secret that the headers hold; one that stands in both headers counts once."""
    secrets: set[bytes] = set()
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            secrets.add(value.strip())
        elif name == b"authorization":
            scheme, _, secret = value.strip().partition(b" ")
            secrets.add(secret.strip() if scheme.lower() == b"bearer" else b"")
    return secrets


def _refused(message: str) -> ApiError:
    return ApiError(message, code="invalid_api_key", status=401)
