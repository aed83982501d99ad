"""Keys: what is taken for one, and every way around them that comes to mind."""

from pathlib import Path

import pytest

from asgi import scope
from candle_vllm.openai import ApiError
from candle_vllm.server.auth import Keys, parse_keys, read_key_file

KEYS = Keys(parse_keys(["alice sk-alice", "sk-other"]))


def caller(headers: list[tuple[bytes, bytes]], path: str = "/v1/models") -> str:
    return KEYS.caller(scope(path, headers=headers))


def test_entries() -> None:
    alice, other = parse_keys(["alice sk-alice", "sk-other"])
    assert (alice.name, alice.secret) == ("alice", "sk-alice")
    assert other.name == parse_keys(["sk-other"])[0].name != "sk-other"
    assert "sk-" not in repr((alice, other))
    assert len(parse_keys(["a b", "a b"])) == 1


@pytest.mark.parametrize("entry", ["", "a b c", "kéy", "a,b", "name k\x00y"])
def test_entries_that_are_none(entry: str) -> None:
    with pytest.raises(ValueError, match="API key") as error:
        parse_keys([entry])
    assert not entry or entry not in str(error.value)


def test_one_name_for_two_keys() -> None:
    with pytest.raises(ValueError, match="two API keys"):
        parse_keys(["a b", "a c"])


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# staff\nalice sk-1\n\n  sk-2  \n", encoding="utf-8")
    assert read_key_file(tmp_path / "keys") == ["alice sk-1", "sk-2"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer sk-alice")],
        [(b"authorization", b"bearer   sk-alice ")],
        [(b"x-api-key", b"sk-alice")],
        [(b"authorization", b"Bearer sk-alice"), (b"x-api-key", b"sk-alice")],
    ],
)
def test_who_has_a_key(headers: list[tuple[bytes, bytes]]) -> None:
    assert caller(headers) == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"sk-alice")],
        [(b"authorization", b"Basic sk-alice")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer sk-alic")],
        [(b"authorization", b"Bearer sk-alicee")],
        [(b"authorization", b"Bearer SK-ALICE")],
        [(b"authorization", b"Bearer \xff\x00")],
        [(b"authorization", b"Bearer " + b"x" * 100_000)],
        [(b"authorization", b"Bearer sk-alice"), (b"authorization", b"Bearer wrong")],
        [(b"authorization", b"Bearer sk-alice"), (b"x-api-key", b"wrong")],
        [(b"authorization", b"Bearer sk-alice"), (b"x-api-key", b"sk-other")],
        [(b"x-api-key", b"")],
        [(b"cookie", b"key=sk-alice")],
    ],
)
def test_who_has_none(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ApiError) as error:
        caller(headers)
    assert (error.value.status, error.value.code) == (401, "invalid_api_key")
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize("path", ["/health"])
def test_what_is_open(path: str) -> None:
    assert caller([], path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "/health/x",
        "//health",
        "/health//",
        "/HEALTH",
        "/health;x",
        "/health/../v1/models",
        "/health\n",
        "",
        "/",
        "/ready",
    ],
)
def test_what_is_not(path: str) -> None:
    with pytest.raises(ApiError):
        caller([], path)


def test_the_path_is_the_one_below_the_mount() -> None:
    assert KEYS.caller(scope("/ai/health", root_path="/ai")) == ""
    for path, root in (("/health/v1/models", "/health"), ("/ai/v1/models", "/ai")):
        with pytest.raises(ApiError):
            KEYS.caller(scope(path, root_path=root))


def test_without_keys_all_come_in() -> None:
    assert Keys().caller(scope("/v1/models")) == ""
    assert not Keys()
    assert KEYS
