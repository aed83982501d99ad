"""What may wait for a place in a loaded model."""

from __future__ import annotations

import threading

import pytest

from candle_vllm.errors import ConfigError, QueueFullError
from candle_vllm.models import Admission, Unseen


class Rejections(Unseen):
    """Keeps why requests were turned away."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def rejected(self, model: str, reason: str) -> None:
        self.seen.append((model, reason))


def test_places_then_the_queue_then_nothing() -> None:
    seen = Rejections()
    door = Admission("m", 2, max_waiting=3, observer=seen)
    tickets = [door.admit(1, 10) for _ in range(5)]
    assert door.waiting == 3
    with pytest.raises(QueueFullError, match="3 sequences wait for 'm' already, and 3 may") as refused:
        door.admit(1, 10)
    assert refused.value.retry_after is not None and refused.value.retry_after >= 1
    assert seen.seen == [("m", "waiting_requests")]
    tickets[0].close()
    tickets[0].close()
    assert door.waiting == 2
    with door.admit(1, 10):
        assert door.waiting == 3
    for ticket in tickets:
        ticket.close()
    assert (door.waiting, door.waiting_tokens) == (0, 0)


def test_all_answers_of_a_request_come_in_or_none() -> None:
    door = Admission("m", 4, max_waiting=4)
    first = door.admit(6, 60)
    with pytest.raises(QueueFullError, match="this request has 3"):
        door.admit(3, 30)
    assert (door.waiting, door.waiting_tokens) == (2, 60)
    second = door.admit(2, 20)
    assert door.waiting == 4
    first.close()
    second.close()


@pytest.mark.parametrize("max_waiting", [0, 5])
def test_a_request_larger_than_every_bound_runs_when_nobody_waits(max_waiting: int) -> None:
    door = Admission("m", 2, max_waiting=max_waiting, max_waiting_tokens=10)
    with door.admit(64, 6400), pytest.raises(QueueFullError):
        door.admit(1, 1)


def test_without_a_queue_only_free_places_are_given() -> None:
    door = Admission("m", 2, max_waiting=0)
    with door.admit(1, 1), door.admit(1, 1), pytest.raises(QueueFullError):
        door.admit(1, 1)
    with door.admit(1, 1), pytest.raises(QueueFullError):
        door.admit(2, 1)


def test_waiting_tokens() -> None:
    seen = Rejections()
    door = Admission("m", 1, max_waiting_tokens=100, observer=seen)
    running = door.admit(1, 500)
    running.begun()
    waiting = door.admit(1, 60)
    with pytest.raises(QueueFullError, match="60 prompt tokens wait for 'm' already, and 100 may; this one has 50"):
        door.admit(1, 50)
    assert seen.seen == [("m", "waiting_tokens")]
    with door.admit(1, 40):
        assert door.waiting_tokens == 100
    waiting.begun()
    waiting.begun()
    assert door.waiting_tokens == 0
    with door.admit(1, 100):
        pass
    waiting.close()
    running.close()
    assert (door.waiting, door.waiting_tokens) == (0, 0)


def test_when_to_try_again_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("candle_vllm.models.admission.time.monotonic", lambda: now[0])
    door = Admission("m", 2, max_waiting=3)
    with door.admit(1, 1):
        now[0] += 10
    tickets = [door.admit(1, 1) for _ in range(5)]
    with pytest.raises(QueueFullError) as refused:
        door.admit(1, 1)
    # Three wait before it, two leave every ten seconds.
    assert refused.value.retry_after == 20
    for ticket in tickets:
        ticket.close()


def test_threads_may_share_a_door() -> None:
    door = Admission("m", 4, max_waiting=100)

    def come_and_go() -> None:
        for _ in range(2000):
            with door.admit(2, 7) as ticket:
                ticket.begun()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (door.waiting, door.waiting_tokens, door._sequences) == (0, 0, 0)


def test_bounds_are_checked() -> None:
    with pytest.raises(ConfigError, match="max_waiting must be an integer of at least 0"):
        Admission("m", 1, max_waiting=-1)
