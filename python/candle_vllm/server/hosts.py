"""What web pages may do to a server on the same machine or network: nothing, unless their origin is allowed.

A page of any site can send requests to localhost. The Host header tells a page whose own name was rebound to this
machine; the rules for content types leave it no kind of POST that browsers send without asking first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.types import Scope

from candle_vllm.openai import ApiError

__all__ = ["LOOPBACK_HOSTS", "check_content_type", "check_host", "check_origin", "is_loopback"]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names by which this machine is called from within."""

_HOST = re.compile(r"^(?P<name>\[[0-9a-f:.%]+\]|[a-z0-9._-]+)(?P<port>:[0-9]{0,5})?$")
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
_CHECKED_METHODS = frozenset({"POST", "PUT", "PATCH"})


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reached from this machine only."""
    name = host.strip("[]").lower()
    return name in ("localhost", "::1") or (name.startswith("127.") and name.replace(".", "").isdigit())


def check_host(scope: Scope, allowed: Sequence[str]) -> None:
    """Raise ApiError unless the Host header names one of `allowed` (lower case, without ports; `*` allows any)."""
    given = [value for name, value in scope["headers"] if name == b"host"]
    if len(given) > 1:
        raise ApiError("The request has several Host headers.", code="invalid_host")
    if not given:
        if scope.get("http_version") == "1.1":
            raise ApiError("The request has no Host header.", code="invalid_host")
        return
    if "*" in allowed:
        return
    match = _HOST.match(given[0].decode("latin-1").lower())
    if match is None or match["name"].rstrip(".") not in allowed:
        raise ApiError(
            "This server does not answer for the host that the request names. Start it with --allowed-hosts NAME to "
            "serve under another name.",
            code="host_not_allowed",
            status=421,
        )


def check_origin(scope: Scope, allowed: Sequence[str]) -> None:
    """Raise ApiError 403 for a page of another site than this server, unless its origin is `allowed` (`*`: any)."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    origin = next((value.decode("latin-1") for name, value in headers if name == b"origin"), None)
    if origin is None or "*" in allowed or origin in allowed:
        return
    host = next((value.decode("latin-1") for name, value in headers if name == b"host"), "")
    if host and origin.partition("://")[2].lower() == host.lower():
        return
    raise ApiError(
        "This server does not answer pages of other sites. Start it with --allowed-origins ORIGIN to allow one.",
        code="origin_not_allowed",
        status=403,
    )


def check_content_type(scope: Scope) -> None:
    """Raise ApiError 415 for a body that is not said to be JSON.

    A client may leave the type out, but not a web page: that could send such a body unasked.
    """
    if scope["method"] not in _CHECKED_METHODS:
        return
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    types = {value for name, value in headers if name == b"content-type"}
    if not types:
        if any(name == b"origin" for name, _ in headers):
            raise _unsupported("A request from a web page needs 'Content-Type: application/json'.")
        return
    if len(types) > 1:
        raise _unsupported("The request has several content types; send 'Content-Type: application/json'.")
    media, _, parameters = types.pop().decode("latin-1").partition(";")
    media = media.strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        shown = media[:80] if media.isascii() and media.isprintable() else "?"
        raise _unsupported(f"Unsupported content type '{shown}'; send 'Content-Type: application/json'.")
    _check_charset(parameters)
    if any(name == b"content-encoding" and value.strip().lower() != b"identity" for name, value in headers):
        raise _unsupported("Compressed bodies are not supported; leave 'Content-Encoding' out.")


def _check_charset(parameters: str) -> None:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in _CHARSETS:
            raise _unsupported("JSON is read as UTF-8; leave the charset out.")


def _unsupported(message: str) -> ApiError:
    return ApiError(message, code="unsupported_media_type", status=415)
