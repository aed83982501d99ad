"""Ids of requests: taken over when they are fit to be logged."""

import pytest

from candle_vllm.server.request_id import MAX_LENGTH, request_id


@pytest.mark.parametrize("given", [b"abc", b"req_1:2/3+4=5@6.7-8", b"x" * MAX_LENGTH])
def test_a_fit_id_is_taken_over(given: bytes) -> None:
    assert request_id(given) == given.decode()


def test_what_is_unfit_is_taken_out() -> None:
    assert request_id(b'a b\x00\x1b[31m\xff"c') == "ab31mc"
    assert request_id(b"x" * 100_000) == "x" * MAX_LENGTH


@pytest.mark.parametrize("given", [None, b"", b"   ", b"\xff\xfe"])
def test_otherwise_it_is_a_fresh_one(given: bytes | None) -> None:
    first, second = request_id(given), request_id(given)
    assert first != second
    assert first.startswith("req_")
    assert len(first) == 36
