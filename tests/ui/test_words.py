"""What a page says of waiting, models and figures."""

from __future__ import annotations

import pytest

from candle_vllm.models import ModelStatus, WaitStatus
from candle_vllm.ui.conversation import Answer
from candle_vllm.ui.progress import Loading
from candle_vllm.ui.words import figures, state_of, waiting


@pytest.mark.parametrize(
    ("wait", "loading", "text"),
    [
        (None, None, "Reading the question …"),
        (WaitStatus("queued", 3, "m", 2_400), None, "In the queue for m: position 3, about 2 s"),
        (
            WaitStatus("waiting_for_model", 1, "m"),
            None,
            "m is next; the active model finishes its answers. Position 1",
        ),
        (WaitStatus("loading", 1, "m"), Loading("weights", 1, 4), "Loading m (weights 25%). Position 1"),
        (WaitStatus("loading", 2, "m", 180_000), None, "Loading m. Position 2, about 3 min"),
        (WaitStatus("loading", 1, "m"), Loading("weights", 7, 0), "Loading m (weights). Position 1"),
        (WaitStatus("processing", 0, "m"), None, "Reading the question …"),
    ],
)
def test_waiting(wait: WaitStatus | None, loading: Loading | None, text: str) -> None:
    assert waiting(wait, loading) == text


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (ModelStatus("ready", "m"), ("ready", "positive")),
        (ModelStatus("ready", "m", queue_lengths={"m": 0, "n": 2}), ("ready, 2 waiting", "positive")),
        (ModelStatus("switching", "m"), ("switching", "warning")),
        (ModelStatus("loading", None), ("loading (weights 50%)", "warning")),
        (ModelStatus("error", None, "broken"), ("failed", "negative")),
        (ModelStatus("idle", None), ("not loaded", "grey")),
    ],
)
def test_state(status: ModelStatus, told: tuple[str, str]) -> None:
    assert state_of(status, Loading("weights", 1, 2)) == told


def test_figures() -> None:
    assert figures(Answer()) == ""
    assert figures(Answer(model="m", tokens=1, ended="stop")) == "m · 1 token"
    assert figures(Answer(model="m", tokens=9, rate=3.14, ended="stopped")) == "m · 9 tokens · 3.1 tokens/s · stopped"
    assert figures(Answer(ended="length")) == "cut off at its length limit"
