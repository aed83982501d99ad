"""Which replica is chosen, over replicas that are only looked at."""

from __future__ import annotations

import time
from typing import Any

import pytest

router = pytest.importorskip("candle_vllm.ray.router")


class Replica:
    """What the router reads of one."""

    def __init__(self, name: str, most: int = 8) -> None:
        self.replica_id = name
        self.max_ongoing_requests = most


class Request:
    """What it reads of a request."""

    def __init__(self, *keys: bytes, age: float = 0.0) -> None:
        self.args = [keys, "body"]
        self.created_at = time.time() - age


class Loads(dict[str, int]):
    """Requests under way by replica."""


class Router(router.PrefixRouter):  # type: ignore[misc, name-defined]
    """Without Serve underneath."""

    replica_queue_len_cache = Loads()

    def __init__(self) -> None:
        self.initialize_state(most_ahead=4)
        self.replica_queue_len_cache = Loads()


async def chosen(under_test: Router, request: Request | None, *names: str) -> list[list[str]]:
    found: Any = await under_test.choose_replicas([Replica(name) for name in names], request)
    return [[replica.replica_id for replica in rank] for rank in found]


async def test_the_one_that_has_it_and_else_the_least_busy() -> None:
    under_test = Router()
    under_test.replica_queue_len_cache.update(a=3, b=1, c=2)
    asked = Request(b"1", b"2")
    assert await chosen(under_test, asked, "a", "b", "c") == [["b"], ["c", "a"]]
    under_test.on_request_routed(asked, "a", None)
    assert await chosen(under_test, Request(b"1", b"2", b"3"), "a", "b", "c") == [["a"]]
    assert await chosen(under_test, Request(b"7"), "a", "b", "c") == [["b"], ["c", "a"]]
    assert await chosen(under_test, None, "a", "b", "c") == [["b"], ["c", "a"]]
    assert await chosen(under_test, asked) == []


async def test_not_where_that_one_is_much_busier_full_or_slow() -> None:
    under_test = Router()
    asked = Request(b"1")
    under_test.on_request_routed(asked, "a", None)
    under_test.replica_queue_len_cache.update(a=5, b=0)
    assert await chosen(under_test, asked, "a", "b") == [["b"], ["a"]]
    under_test.replica_queue_len_cache.update(a=8, b=5)
    assert await chosen(under_test, asked, "a", "b") == [["a"], ["b"]]
    under_test.replica_queue_len_cache.update(a=1, b=0)
    assert await chosen(under_test, Request(b"1", age=60), "a", "b") == [["a"], ["b"]]
