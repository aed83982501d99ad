"""Where to listen: the forms that --h takes. Must not know of servers."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_HOST = "0.0.0.0"
DEFAULT_PORT = 2000


class AddressError(ValueError):
    """The text is no address, or contradicts --p."""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or the path of a Unix socket."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str | None = None

    @property
    def url(self) -> str:
        """How a client on this machine reaches it."""
        if self.path is not None:
            return f"unix://{self.path}"
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"


def parse_address(host: str | None, port: int | None) -> Address:
    """The address of ``--h`` and ``--p``.

    ``host`` may be ``host``, ``host:port``, ``[ipv6]``, ``[ipv6]:port``, a bare IPv6 address, ``tcp://`` and one of
    these, or ``unix:///path``. Raises :class:`AddressError`.
    """
    text = DEFAULT_HOST if host is None else host.strip()
    if text.startswith("unix:"):
        return _unix(text, port)
    if "://" in text and not text.startswith("tcp://"):
        raise AddressError(f"--h {host}: only tcp:// and unix:// are understood")
    name, given = _split(text.removeprefix("tcp://").rstrip("/"))
    if not name:
        raise AddressError(f"--h {host}: the host is missing")
    named = None if given is None else _port(given, f"--h {host}")
    if named is not None and port is not None and named != port:
        raise AddressError(f"--h {host} and --p {port} name different ports; give one")
    chosen = named if named is not None else port if port is not None else DEFAULT_PORT
    return Address(name, _port(str(chosen), "--p"))


def _unix(text: str, port: int | None) -> Address:
    path = text.removeprefix("unix:").removeprefix("//")
    if not path.startswith("/"):
        raise AddressError(f"--h {text}: a Unix socket needs an absolute path, as in unix:///run/candle.sock")
    if port is not None:
        raise AddressError(f"--p {port} has no meaning for the Unix socket {path}; leave it out")
    return Address(path=path)


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        name, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise AddressError(f"--h {text}: an IPv6 address is written [address] or [address]:port")
        return name, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    name, colon, given = text.partition(":")
    return name, given if colon else None


def _port(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise AddressError(f"{where}: a port is a number from 0 to 65535; got {text!r}")
    return int(text)
