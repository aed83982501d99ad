"""Who is next, and who is left out."""

from __future__ import annotations

import random

from candle_vllm.models.queue import Queues, Waiter, WaitQueue


async def test_order_and_positions() -> None:
    queue: WaitQueue[str] = WaitQueue(100)
    waiters = [Waiter[str](priority, number) for number, priority in enumerate([0, 5, 0, -1, 5])]
    for waiter in waiters:
        queue.add(waiter)
    assert [queue.position(waiter) for waiter in waiters] == [2, 4, 3, 1, 5]
    assert queue.first is waiters[3]
    assert queue.remove(waiters[0])
    assert not queue.remove(waiters[0])
    assert (queue.position(waiters[0]), queue.position(waiters[2]), len(queue)) == (0, 2, 4)
    assert queue.take_all() == [waiters[3], waiters[2], waiters[1], waiters[4]]
    assert len(queue) == 0
    assert queue.first is None


async def test_any_sequence_of_arrivals_and_departures_keeps_the_order() -> None:
    chance = random.Random(14)
    queue: WaitQueue[str] = WaitQueue(10_000)
    inside: list[Waiter[str]] = []
    for number in range(3000):
        if inside and chance.random() < 0.4:
            assert queue.remove(inside.pop(chance.randrange(len(inside))))
        else:
            inside.append(Waiter(chance.randrange(-3, 4), number))
            queue.add(inside[-1])
    assert list(queue) == sorted(inside, key=lambda waiter: waiter.order)


async def test_room() -> None:
    queue: WaitQueue[str] = WaitQueue(1)
    assert not queue.full
    queue.add(Waiter(0, 0))
    assert queue.full
    assert WaitQueue[str](0).full


async def test_models_come_in_the_order_of_their_first_waiter() -> None:
    queues: Queues[str] = Queues("abc", 10)
    first = queues.join("b", 0, None)
    queues.join("a", 0, None)
    queues.join("b", 0, None)
    urgent = queues.join("c", -1, None)
    assert queues.order() == ["c", "b", "a"]
    assert queues.leave("c", urgent)
    assert queues.leave("b", first)
    assert queues.order() == ["a", "b"]
    assert queues.lengths() == {"a": 1, "b": 1, "c": 0}


async def test_all_are_granted_told_or_failed() -> None:
    queues: Queues[int] = Queues("ab", 10)
    told: list[int] = []
    granted = [queues.join("a", 0, lambda waiter: told.append(waiter.order[1])) for _ in range(3)]
    failed = [queues.join("b", 0, None) for _ in range(2)]
    queues.tell_all("a")
    queues.tell_all("b")
    assert told == [1, 2, 3]
    numbers = iter(range(10))
    queues.grant_all("a", lambda: next(numbers))
    queues.fail_all("b", lambda: ValueError(str(next(numbers))))
    assert [await waiter.granted for waiter in granted] == [0, 1, 2]
    assert [str(waiter.granted.exception()) for waiter in failed] == ["3", "4"]
    assert queues.lengths() == {"a": 0, "b": 0}
