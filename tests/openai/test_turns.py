"""Long replies are written in turns, and to the very text that one call writes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from candle_vllm.models import SingleModel
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.openai.endpoint import serialised
from candle_vllm.openai.turns import serialised_in_turns
from fake_engine import FakeEngine


class Leaf(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str = ""
    numbers: list[float] | None = None
    table: dict[str, int] = {}


class Node(BaseModel):
    leaf: Leaf | None = None
    leaves: list[Leaf] | tuple[Leaf, ...] = []
    nodes: list[Node] = []
    mixed: list[Any] = []
    last: int = 0


def leaf(random_: random.Random) -> Leaf:
    fields: dict[str, Any] = {"text": random_.choice(["", "é\u2028\x7f", '":[{"', "a" * 9])}
    if random_.random() < 0.5:
        fields["numbers"] = [random_.random() for _ in range(random_.choice([0, 1, 64, 65, 200]))]
    if random_.random() < 0.3:
        fields["table"] = {'":[': 1}
    if random_.random() < 0.3:
        fields["more"] = list(range(random_.choice([1, 129])))
    return Leaf(**dict(random_.sample(sorted(fields.items()), random_.randint(0, len(fields)))))


def node(random_: random.Random, depth: int) -> Node:
    def many(make: Any, most: int) -> list[Any]:
        return [make() for _ in range(random_.choice([0, 1, most]))]

    fields: dict[str, Any] = {
        "leaf": random_.choice([None, leaf(random_)]),
        "leaves": random_.choice([list, tuple])(many(lambda: leaf(random_), 130)),
        "nodes": many(lambda: node(random_, depth - 1), 3) if depth else [],
        "mixed": many(lambda: random_.choice([None, leaf(random_), {"a": [1]}, list(range(70))]), 70),
        "last": 7,
    }
    return Node(**dict(random_.sample(sorted(fields.items()), random_.randint(0, len(fields)))))


@pytest.mark.parametrize("seed", range(60))
async def test_the_text_is_the_same(seed: int) -> None:
    reply = node(random.Random(seed), 2)
    assert await serialised_in_turns(reply) == serialised(reply)


async def test_others_have_their_turns_while_a_long_reply_is_written() -> None:
    engine = FakeEngine()
    engine.answer = "many words " * 40
    adapter = OpenAIAdapter(SingleModel(engine))
    body = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 5, "n": 8}
    reply = await adapter.achat_completion(body)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    text = await serialised_in_turns(reply)
    counting.cancel()
    assert text == serialised(reply)
    assert turns >= len(text) // (256 * 1024) >= 1
