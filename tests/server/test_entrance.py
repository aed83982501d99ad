"""One caller through several doors."""

from __future__ import annotations

import pytest

from candle_vllm.openai import ApiError
from candle_vllm.server.auth import parse_keys
from candle_vllm.server.entrance import Entrance
from candle_vllm.server.limits import Limits


def test_callers_with_keys_are_told_apart_by_them() -> None:
    entrance = Entrance(parse_keys(["alice a", "bob b"]), Limits(caller_concurrency=1))
    assert (entrance.keys.holder(b"a"), entrance.keys.holder(b"x")) == ("alice", None)
    with entrance.enter("alice", "1.1.1.1"), entrance.enter("bob", "1.1.1.1"):
        with pytest.raises(ApiError) as caught, entrance.enter("alice", "2.2.2.2"):
            pass
        assert caught.value.status == 429
    with entrance.enter("alice", "2.2.2.2"):
        pass


def test_callers_without_keys_are_told_apart_by_their_address() -> None:
    entrance = Entrance((), Limits(caller_rate=1))
    with entrance.enter("", "1.1.1.1"), entrance.enter("", "2.2.2.2"):
        pass
    with pytest.raises(ApiError) as caught, entrance.enter("", "1.1.1.1"):
        pass
    assert caught.value.code == "rate_limit_exceeded"
