"""How far a load is."""

from __future__ import annotations

import pytest

from candle_vllm.ui.progress import Loading, LoadProgress


def test_the_latest_counts() -> None:
    progress = LoadProgress()
    assert progress.latest is None
    progress.report("download", 1, 2)
    progress.report("weights", 3, 4)
    assert progress.latest == Loading("weights", 3, 4)
    progress.clear()
    assert progress.latest is None


@pytest.mark.parametrize(("done", "total", "share"), [(0, 0, None), (1, 4, 0.25), (9, 4, 1.0)])
def test_share(done: int, total: int, share: float | None) -> None:
    assert Loading("x", done, total).share == share
