"""Which replica has which beginnings."""

from __future__ import annotations

import json
from typing import Any

from candle_vllm.ray.prefixes import PrefixTable, prefix_keys

CHAT = "/v1/chat/completions"


def keys(system: str, user: str, **more: Any) -> tuple[bytes, ...]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return prefix_keys(CHAT, json.dumps({"model": "m", "messages": messages, **more}).encode())


def common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_prompts_that_begin_alike_begin_with_the_same_keys() -> None:
    long = "You are a cook. " * 20
    one, other, third = keys(long, "Soup?"), keys(long, "Bread?", seed=4), keys("You are a poet. " * 20, "Soup?")
    assert common(one, other) >= len(long) // 64
    assert common(one, third) <= 1
    # A key stands for all that is before it, not for its own piece alone.
    assert common(keys("x" * 64 + long, ""), keys("y" * 64 + long, "")) <= 1
    assert len(set(keys("x" * 100_000, ""))) == 128


def test_another_model_or_other_tools_are_another_beginning() -> None:
    assert common(keys("a" * 200, "b"), keys("a" * 200, "b", model="n" * 60)) == 0


def test_what_is_no_request_has_no_keys() -> None:
    for body in (b"", b"{", b"[]", b'"x"', b"[" * 100_000, b"\xff"):
        assert prefix_keys(CHAT, body) == ()


def test_who_has_most_is_best() -> None:
    table: PrefixTable[str] = PrefixTable()
    table.add([b"1", b"2"], "a")
    table.add([b"1", b"2", b"3"], "b")
    table.add([b"1", b"4"], "c")
    assert table.best([b"1", b"2", b"3", b"9"], "abc") == {"b"}
    assert table.best([b"1", b"2", b"7"], "abc") == {"a", "b"}
    assert table.best([b"1", b"2", b"3"], "ac") == {"a"}
    assert table.best([b"8"], "abc") == set()
    assert table.best([], "abc") == set()
    table.keep("ac")
    assert table.best([b"1", b"2", b"3"], "abc") == {"a"}


def test_only_the_newest_are_kept() -> None:
    table: PrefixTable[str] = PrefixTable(most=3)
    for key in (b"1", b"2", b"3", b"1", b"4"):
        table.add([key], "a")
    assert [bool(table.best([key], "a")) for key in (b"1", b"2", b"3", b"4")] == [True, False, True, True]
