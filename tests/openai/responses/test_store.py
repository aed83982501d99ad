"""Bounds of the store, and whose responses are whose."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from typing import Any

import pytest

from candle_vllm.generation import Account
from candle_vllm.openai import ApiError, OpenAIAdapter
from candle_vllm.openai.responses import Record, Responses, ResponsesRequest, ResponseStore
from candle_vllm.openai.responses.items import InputItem
from candle_vllm.openai.responses.writer import ResponseWriter
from fake_engine import FakeEngine


def record(text: str = "x", owner: str = "", **fields: Any) -> Record:
    response = ResponseWriter(ResponsesRequest(input=text), Account()).response
    response.status = fields.get("status", "completed")
    return Record(owner, response, [InputItem(role="user", content=text, id=f"msg_{response.id}")])


def end(running: Record) -> None:
    assert running._response is not None
    running._response.status = "completed"
    running.settle()


def test_the_longest_unused_make_room() -> None:
    store = ResponseStore(most=3)
    first, second, third, fourth = (record() for _ in range(4))
    assert all(store.put(each) for each in (first, second, third))
    assert store.get(first.name, "") is first
    store.put(fourth)
    assert [store.holds(each) for each in (first, second, third, fourth)] == [True, False, True, True]
    assert store.item(f"msg_{second.name}", "") is None
    assert store.item(f"msg_{first.name}", "") is first.context[0]


def test_an_item_is_found_as_long_as_any_response_holds_it() -> None:
    store = ResponseStore()
    parent = record()
    name = parent.context[0].id or ""
    child = record()
    child.context = [*parent.context, *child.context]
    for each in (parent, child):
        store.put(each)
    for gone, still in ((child, True), (parent, False)):
        store.drop(gone)
        assert (store.item(name, "") is parent.context[0]) is still
    assert not store._items


def test_bytes_are_bounded_and_given_back() -> None:
    small = record().measure()
    store = ResponseStore(most_bytes=10 * small)
    kept = [record() for _ in range(30)]
    for each in kept:
        store.put(each)
    assert store.bytes <= 10 * small
    assert len(store) in (9, 10)
    assert not store.put(record("x" * (11 * small)))
    assert len(store) in (9, 10)
    store.put(record("x" * 5 * small))
    assert store.bytes <= 10 * small
    for each in kept:
        store.drop(each)
    assert len(store) == 1
    assert not ResponseStore(most=0).put(record())


def test_what_still_runs_stays() -> None:
    store = ResponseStore(most=1)
    running = record(status="in_progress")
    store.put(running)
    store.put(record())
    assert store.holds(running)
    end(running)
    store.put(record())
    assert not store.holds(running)


def test_those_under_way_leave_no_room() -> None:
    running = record("x" * 1000, status="in_progress")
    store = ResponseStore(most_bytes=running.measure() + 100)
    assert store.put(running)
    assert not store.put(record())
    end(running)
    assert store.put(running)
    assert store.put(record())


def test_each_has_its_own() -> None:
    store = ResponseStore()
    mine = record(owner="me")
    store.put(mine)
    with pytest.raises(ApiError) as refusal:
        store.get(mine.name, "you")
    assert refusal.value.status == 404
    assert store.item(f"msg_{mine.name}", "you") is None
    assert store.item(f"msg_{mine.name}", "me") is not None


async def test_evicted_ones_are_not_gone_on_from() -> None:
    responses = Responses(OpenAIAdapter(FakeEngine()), ResponseStore(most=2))
    first = await responses.acreate(ResponsesRequest(input="a"))
    second = await responses.acreate(ResponsesRequest(input="b", previous_response_id=first.id))
    third = await responses.acreate(ResponsesRequest(input="c", previous_response_id=second.id))
    with pytest.raises(ApiError) as refusal:
        await responses.acreate(ResponsesRequest(input="d", previous_response_id=first.id))
    assert (refusal.value.status, refusal.value.code) == (400, "previous_response_not_found")
    # A chain goes on whatever of it is still stored.
    assert len(responses.get(third.id).context) == 5
    last = await responses.acreate(ResponsesRequest(input="d", previous_response_id=third.id, store=False))
    assert last.store is False
    assert len(responses.store) == 2


async def test_one_that_is_too_large_says_that_it_is_not_stored() -> None:
    responses = Responses(OpenAIAdapter(FakeEngine()), ResponseStore(most_bytes=5000))
    assert not (await responses.acreate(ResponsesRequest(input="a"))).store
    opened = responses.open(ResponsesRequest(input="a", stream=True))
    events = [event async for each in opened.events for event in opened.writer.chunks(each)]
    assert events[-1].response.store is False


async def test_a_background_that_never_began_can_be_cancelled() -> None:
    engine = FakeEngine()
    responses = Responses(OpenAIAdapter(engine))
    begun = await responses.astart(ResponsesRequest(input="a", background=True, stream=True))
    assert (await responses.acancel(begun.name)).status == "cancelled"
    assert not engine.submitted
    assert [kind async for kind, _ in begun.events()] == ["response.created", "response.queued"]


async def test_closing_ends_all_in_the_background() -> None:
    engine = FakeEngine(gate=asyncio.Event())
    responses = Responses(OpenAIAdapter(engine))
    begun = [await responses.astart(ResponsesRequest(input="a", background=True)) for _ in range(3)]
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if len(engine.live) == 3:
            break
    await responses.aclose()
    await asyncio.sleep(0)
    assert not engine.live
    assert {each.status for each in begun} == {"cancelled"}
    with pytest.raises(ApiError, match="stored"):
        await Responses(OpenAIAdapter(engine), ResponseStore(most=0)).astart(
            ResponsesRequest(input="a", background=True)
        )


@pytest.mark.parametrize(("items", "parts", "text"), [(1, 1, "x"), (200, 0, "x"), (50, 20, "x"), (3, 1, "x" * 5000)])
def test_bytes_are_about_those_of_the_memory(items: int, parts: int, text: str) -> None:
    content = [{"type": "input_text", "text": text}] * parts if parts else text
    body = json.dumps({"input": [{"role": "user", "content": content}] * items})
    responses = Responses(OpenAIAdapter(FakeEngine()), ResponseStore(most=100_000))
    gc.collect()
    tracemalloc.start()
    while responses.store.bytes < 1 << 20:
        asked = responses.resolved(ResponsesRequest.model_validate_json(body))
        response = ResponseWriter(asked, Account()).response
        response.status = "completed"
        responses.store.put(Record("", response, list(asked.items)))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.4 * responses.store.bytes < taken < 1.3 * responses.store.bytes
