"""Hosts and content types: what a web page cannot do."""

import pytest

from asgi import Headers, scope
from candle_vllm.openai import ApiError
from candle_vllm.server.hosts import LOOPBACK_HOSTS, check_content_type, check_host, check_origin, is_loopback


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:2000", "LOCALHOST", "127.0.0.1:80", "[::1]:2000", "[::1]", "localhost."]
)
def test_names_of_this_machine(host: str) -> None:
    check_host(scope(headers=[(b"host", host.encode())]), LOOPBACK_HOSTS)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:2000",
        "localhost@evil.example",
        "localhost/health?",
        "localhost#",
        "127.0.0.1.evil.example",
        "[::2]",
        "::1",
        "localhost:port",
        "localhost:123456",
        "",
        " localhost",
        "local\x00host",
        "2130706433",
    ],
)
def test_other_names(host: str) -> None:
    with pytest.raises(ApiError) as error:
        check_host(scope(headers=[(b"host", host.encode())]), LOOPBACK_HOSTS)
    assert error.value.status == 421


def test_how_many() -> None:
    with pytest.raises(ApiError, match="several") as error:
        check_host(scope(headers=[(b"host", b"localhost")] * 2), ("*",))
    assert error.value.status == 400
    bare = {**scope(), "headers": []}
    with pytest.raises(ApiError, match="no Host"):
        check_host(bare, ("*",))
    check_host({**bare, "http_version": "1.0"}, LOOPBACK_HOSTS)


def test_any_name_where_all_are_allowed() -> None:
    check_host(scope(headers=[(b"host", b"evil.example")]), ("*",))


@pytest.mark.parametrize(
    ("address", "within"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("127.evil.example", False),
    ],
)
def test_addresses_that_only_this_machine_reaches(address: str, within: bool) -> None:
    assert is_loopback(address) is within


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"application/json")],
        [(b"content-type", b"Application/JSON ; charset=UTF-8")],
        [(b"content-type", b"application/vnd.api+json")],
        [(b"content-type", b"application/json"), (b"origin", b"https://page.example")],
        [(b"content-encoding", b"identity")],
    ],
)
def test_bodies_that_may_come(headers: Headers) -> None:
    check_content_type(scope(method="POST", headers=headers))


@pytest.mark.parametrize(
    "headers",
    [
        [(b"origin", b"https://page.example")],
        [(b"origin", b"null")],
        [(b"content-type", b"")],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"text/plain; application/json")],
        [(b"content-type", b"text/json+json")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"multipart/form-data; boundary=x")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [(b"content-type", b"application/json"), (b"content-type", b"text/plain")],
        [(b"content-type", b"application/json, text/plain")],
        [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")],
        [(b"content-type", b"\xff\xfe" * 500)],
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_bodies_that_may_not(headers: Headers, method: str) -> None:
    with pytest.raises(ApiError) as error:
        check_content_type(scope(method=method, headers=headers))
    assert (error.value.status, error.value.code) == (415, "unsupported_media_type")
    assert len(str(error.value)) < 200


def test_a_get_needs_no_type() -> None:
    check_content_type(scope(method="GET", headers=[(b"origin", b"https://page.example")]))


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        (None, (), True),
        ("http://localhost:2000", (), True),
        ("https://LOCALHOST:2000", (), True),
        ("http://localhost:3000", (), False),
        ("http://evil.example", (), False),
        ("null", (), False),
        ("http://evil.example", ("*",), True),
        ("http://friend.example", ("http://friend.example",), True),
    ],
)
def test_pages_of_other_sites(origin: str | None, allowed: tuple[str, ...], passes: bool) -> None:
    headers: Headers = [(b"host", b"localhost:2000")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    if passes:
        check_origin(scope(headers=headers), allowed)
        return
    with pytest.raises(ApiError) as refused:
        check_origin(scope(headers=headers), allowed)
    assert (refused.value.status, refused.value.code) == (403, "origin_not_allowed")
