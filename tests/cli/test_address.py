"""The forms of --h and --p."""

from __future__ import annotations

import pytest

from candle_vllm.cli.address import Address, AddressError, parse_address


@pytest.mark.parametrize(
    ("host", "port", "expected", "url"),
    [
        (None, None, Address("0.0.0.0", 2000), "http://127.0.0.1:2000"),
        ("0.0.0.0", 8000, Address("0.0.0.0", 8000), "http://127.0.0.1:8000"),
        ("localhost:81", None, Address("localhost", 81), "http://localhost:81"),
        ("localhost:81", 81, Address("localhost", 81), "http://localhost:81"),
        ("[::1]:82", None, Address("::1", 82), "http://[::1]:82"),
        ("[::1]", 83, Address("::1", 83), "http://[::1]:83"),
        ("::", None, Address("::", 2000), "http://[::1]:2000"),
        ("fe80::1", 1, Address("fe80::1", 1), "http://[fe80::1]:1"),
        ("tcp://10.0.0.1:84", None, Address("10.0.0.1", 84), "http://10.0.0.1:84"),
        ("tcp://[::1]:85/", None, Address("::1", 85), "http://[::1]:85"),
        ("tcp://host", None, Address("host", 2000), "http://host:2000"),
        ("unix:///run/c.sock", None, Address(path="/run/c.sock"), "unix:///run/c.sock"),
    ],
)
def test_forms(host: str | None, port: int | None, expected: Address, url: str) -> None:
    address = parse_address(host, port)
    assert address == expected
    assert address.url == url


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("host:", None),
        ("host:x", None),
        ("host:70000", None),
        (None, 70000),
        (None, -1),
        ("", None),
        (":80", None),
        ("host:1", 2),
        ("[::1", None),
        ("[::1]80", None),
        ("http://host", None),
        ("unix://relative", None),
        ("unix:///a", 80),
    ],
)
def test_what_is_no_address(host: str | None, port: int | None) -> None:
    with pytest.raises(AddressError):
        parse_address(host, port)
