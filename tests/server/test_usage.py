"""Sums by key and model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from candle_vllm.errors import GenerationError
from candle_vllm.generation import Account, Observer
from candle_vllm.server.usage import Usage


def account(key: str, **changes: Any) -> Account:
    fields: dict[str, Any] = {"model": "m", "submitted": 1.0, "prompt_tokens": 10, "cached_tokens": 4}
    return Account(**{**fields, "key": key, "generated_tokens": 5, "reasoning_tokens": 2, **changes})


def test_by_key() -> None:
    usage = Usage()
    observer: Observer = usage
    for one in (
        account("alice"),
        account("alice", error=GenerationError("fire")),
        account("alice", model="other"),
        account("bob"),
        account("alice", submitted=None),
    ):
        observer.started(one)
        observer.tokens(one, 1, 2.0)
        observer.ended(one)
    alice = usage.report("alice")
    assert alice.object == "list"
    assert [asdict(row) for row in alice.data] == [
        {
            "key": "alice",
            "model": "m",
            "requests": 2,
            "failed": 1,
            "prompt_tokens": 20,
            "cached_tokens": 8,
            "generated_tokens": 10,
            "reasoning_tokens": 4,
        },
        {
            "key": "alice",
            "model": "other",
            "requests": 1,
            "failed": 0,
            "prompt_tokens": 10,
            "cached_tokens": 4,
            "generated_tokens": 5,
            "reasoning_tokens": 2,
        },
    ]
    assert [row.key for row in usage.report("bob").data] == ["bob"]
    assert usage.report("nobody").data == []


def test_without_keys_all_is_told() -> None:
    usage = Usage()
    usage.ended(account(""))
    usage.ended(account("alice"))
    assert [row.key for row in usage.report("").data] == ["", "alice"]
