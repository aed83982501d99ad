"""What measured times let one promise."""

from __future__ import annotations

import pytest

from candle_vllm.models.rates import Duration, retry_after


def test_a_mean_follows_what_is_new() -> None:
    mean = Duration()
    assert (mean.mean, mean.left(1.0)) == (None, None)
    mean.add(10.0)
    assert mean.mean == 10.0
    for _ in range(20):
        mean.add(2.0)
    assert mean.mean == pytest.approx(2.0, abs=0.01)


def test_what_is_left() -> None:
    mean = Duration()
    mean.add(10.0)
    assert mean.left(4.0) == 6.0
    assert mean.left(30.0) == 30.0


@pytest.mark.parametrize(("eta", "seconds"), [(None, 5), (0.0, 1), (0.2, 1), (7.1, 8), (1e9, 120)])
def test_retry_after(eta: float | None, seconds: int) -> None:
    assert retry_after(eta) == seconds
