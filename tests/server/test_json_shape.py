"""The shape of JSON texts, counted before they are parsed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import pytest

from candle_vllm.openai import ApiError
from candle_vllm.server import json_shape
from candle_vllm.server.json_shape import Shape, check_shape

MB = 1024 * 1024


def refusal(text: bytes, **bounds: int) -> str:
    """What is wrong with the text's shape; nothing where it may pass."""
    try:
        asyncio.run(check_shape(text, Shape(**bounds)))
    except ApiError as refused:
        return f"{refused.status} {refused.code} {refused}"
    return ""


def measure(value: Any, depth: int = 0) -> tuple[int, int, int, int]:
    """Depth, containers, values and members, as the module counts them, of parsed JSON."""
    if not isinstance(value, list | dict):
        return depth, 0, 0, 0
    inner = [measure(one, depth + 1) for one in (value.values() if isinstance(value, dict) else value)]
    deepest = max([depth + 1, *(one[0] for one in inner)])
    containers = 1 + sum(one[1] for one in inner)
    values = 1 + max(0, len(inner) - 1) + sum(one[2] for one in inner)
    members = (len(inner) if isinstance(value, dict) else 0) + sum(one[3] for one in inner)
    return deepest, containers, values, members


def random_json(source: random.Random, depth: int) -> Any:
    kind = source.randrange(6 if depth else 4)
    if kind < 3:
        return "".join(source.choice('ab,"\\[]{}:\n\u00e9\U0001f980') for _ in range(source.randrange(12)))
    if kind == 3:
        return source.choice([1, -2.5e3, None, True])
    inner = [random_json(source, depth - 1) for _ in range(source.randrange(5))]
    return inner if kind == 4 else {f'k{at}"\\': one for at, one in enumerate(inner)}


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64])
def test_bounds_are_met_exactly_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(json_shape, "_FINE", piece)
    source = random.Random(piece)
    for _ in range(60):
        value = [[random_json(source, 4)]]
        text = json.dumps(value, ensure_ascii=source.random() < 0.5).encode()
        depth, containers, values, members = measure(value)
        exact = {"depth": depth, "containers": containers, "values": values, "members": members}
        assert refusal(text, **exact) == ""
        for name, said in (
            ("depth", "deeply nested"),
            ("containers", "arrays and objects"),
            ("values", "many values"),
            ("members", "many members"),
        ):
            if exact[name]:
                assert said in refusal(text, **{**exact, name: exact[name] - 1})


def test_text_is_no_structure() -> None:
    assert refusal(json.dumps({"content": "[{,}]" * 500_000}).encode()) == ""


@pytest.mark.parametrize(
    "text",
    [
        b'{"messages":[' + b"0," * (4 * MB - 20) + b"0]}",
        b"[" * 8 * MB,
        b"[" * 4 * MB + b"]" * 4 * MB,
        b"[" + b"[1]," * (2 * MB - 1) + b"1]",
        b'{"a":' * (8 * MB // 5),
        b'["' + b"\\" * (8 * MB - 4) + b'"' + b",1" * 300_000,
        b'["a",' * (8 * MB // 5),
        b'"",' * (8 * MB // 3),
        b"{" + b'"a":1,' * 40_000 + b'"content":"' + b": " * (3 * MB) + b'"}',
    ],
    ids=["wide", "open", "deep", "many arrays", "objects", "backslashes", "strings in arrays", "strings", "members"],
)
def test_eight_megabytes_are_refused_in_time_and_the_loop_turns(text: bytes) -> None:
    async def watched() -> tuple[str, float]:
        longest, last, done = 0.0, time.thread_time(), False

        async def turns() -> None:
            nonlocal longest, last
            while not done:
                await asyncio.sleep(0)
                now = time.thread_time()
                longest, last = max(longest, now - last), now

        watch = asyncio.create_task(turns())
        with pytest.raises(ApiError) as error:
            await check_shape(text, Shape())
        done = True
        await watch
        return str(error.value), longest

    began = time.perf_counter()
    # In the thread's own time: how long others kept the processor says nothing.
    longest = min(asyncio.run(watched())[1] for _ in range(3))
    assert longest < 0.02
    assert time.perf_counter() - began < 6
