"""Bounds of histograms."""

from __future__ import annotations

import pytest

from candle_vllm.server import buckets


@pytest.mark.parametrize("name", buckets.__all__)
def test_they_ascend(name: str) -> None:
    bounds: tuple[float, ...] = getattr(buckets, name)
    assert list(bounds) == sorted(set(bounds))
    assert all(bound > 0 for bound in bounds)


def test_those_of_vllm_are_among_them() -> None:
    # Dashboards that were made for vLLM name some of them.
    assert {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0} <= set(buckets.FIRST_TOKEN)
    assert {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5} <= set(buckets.GAP)
    assert {0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0} <= set(buckets.REQUEST)
    assert {1, 2, 5, 10, 20} == set(buckets.COUNT)
