"""Hundreds of responses made, followed, cancelled, deleted and left at random: nothing is lost, mixed up or kept."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from candle_vllm.generation import Account
from candle_vllm.openai import ApiError, OpenAIAdapter, Responses, ResponseStore
from candle_vllm.openai.responses import Record
from fake_engine import FakeEngine
from responses_facts import check

MOST, BYTES = 40, 1_500_000
_KNOWN = ("previous_response_not_found", "response_not_found", "invalid_value", "queue_full")


class Client:
    """One owner's random doings; `names` are its responses that may be stored still."""

    def __init__(self, responses: Responses, number: int) -> None:
        self.responses = responses
        self.owner = f"owner{number % 3}"
        self.chance = random.Random(number)
        self.names: list[str] = []
        self.done = 0

    async def act(self) -> None:
        name = self.chance.choice(self.names) if self.names and self.chance.random() < 0.7 else None
        asked: dict[str, Any] = {"input": f"{self.owner} says {self.done} " * self.chance.randint(1, 30)}
        if name is not None:
            asked["previous_response_id"] = name
        try:
            await self.chance.choice([self.make, self.stream, self.leave, self.begin, self.cancel, self.delete])(
                asked, name
            )
        except ApiError as error:
            if error.code not in _KNOWN:
                raise
        self.done += 1

    async def make(self, asked: dict[str, Any], name: str | None) -> None:
        made = await self.responses.acreate(asked, self.owner)
        self.names.append(made.id)
        assert made.status == "completed"

    async def stream(self, asked: dict[str, Any], name: str | None) -> None:
        begun = await self.responses.astart({**asked, "stream": True}, self.owner)
        self.names.append(begun.name)
        last = check([json.loads(text) async for _, text in begun.events()])
        assert self.owner in last["output"][0]["content"][0]["text"]

    async def leave(self, asked: dict[str, Any], name: str | None) -> None:
        opened = self.responses.open(self.responses._typed(asked, Account()), self.owner)
        async for _ in opened.events:
            if self.chance.random() < 0.2:
                break
        await opened.events.aclose()

    async def begin(self, asked: dict[str, Any], name: str | None) -> None:
        self.names.append((await self.responses.astart(asked, self.owner)).name)

    async def cancel(self, asked: dict[str, Any], name: str | None) -> None:
        begun = await self.responses.astart(asked, self.owner)
        for _ in range(self.chance.randint(0, 5)):
            await asyncio.sleep(0)
        record = await self.responses.acancel(begun.name, self.owner)
        assert not record.running
        assert json.loads(record.text)["status"] in ("cancelled", "completed")

    async def delete(self, asked: dict[str, Any], name: str | None) -> None:
        if name is not None:
            self.names.remove(name)
            await self.responses.adelete(name, self.owner)


def consistent(store: ResponseStore) -> None:
    """What the store counts is what it holds."""
    records: dict[str, Record] = dict(store._records)
    assert store.bytes == sum(record.bytes for record in records.values()) <= BYTES
    assert len(records) <= MOST
    held = {(record.owner, item.id, name) for name, record in records.items() for item in record.said}
    assert held == {(*key, name) for key, names in store._items.items() for name in names}


@pytest.mark.parametrize("seed", range(3))
async def test_churn(seed: int) -> None:
    engine = FakeEngine(batch=1000, context=200_000)
    responses = Responses(OpenAIAdapter(engine), ResponseStore(MOST, BYTES))

    async def one(number: int) -> Client:
        client = Client(responses, 1000 * seed + number)
        for _ in range(25):
            await client.act()
        return client

    clients = await asyncio.gather(*(one(number) for number in range(12)))
    assert sum(client.done for client in clients) == 300
    for _ in range(2000):
        if not responses._running:
            break
        await asyncio.sleep(0.001)
    assert not responses._running and not engine.live
    consistent(responses.store)
    assert len(responses.store) >= 5
    for owner in ("owner0", "owner1", "owner2"):
        texts = [record.text for record in responses.store._records.values() if record.owner == owner]
        assert all(other not in text for text in texts for other in {"owner0", "owner1", "owner2"} - {owner})
    for record in list(responses.store._records.values()):
        responses.store.drop(record)
    assert responses.store.bytes == 0 and not responses.store._items
