"""What a streamed token costs in Python: 64 chats at once, thinking and calls told apart, from engine to socket.

    PYTHONPATH=tests python tests/perf/stream_cost.py [--streams 64] [--rounds 5] [--profile]

The engine is a stand-in whose pieces are made beforehand, so what is timed is the road alone: events, parsers, chunks,
frames, the server's stream. One row is read by nobody but a bare loop; what the others take beyond it is the cost.
Times are of the thread's own processor, microseconds a token, medians of the rounds; kinds take turns. Ends with an
error above 20.
"""

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Self

from asgi import scope
from candle_vllm.params import GenerationParams
from candle_vllm.records import FinishReason, GenerationChunk
from candle_vllm.server import create_app
from fake_engine import CHATML, FakeEngine, FakeHandle

MOST = 20.0
"""Microseconds a token that the road may take."""
CALL = (
    '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern", "days": 3, "note": "mild and dry"}}\n</tool_call>'
)
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
]
ANSWERS = {
    "text": "word " * 200,
    "text, tools given": "word " * 200,
    "thinking": "<think>" + "hmm " * 150 + "</think>" + "word " * 50,
    "thinking and a call": "<think>" + "hmm " * 100 + "</think>" + "word " * 60 + CALL,
}


class Instant(FakeHandle):
    """Gives pieces that were made beforehand; others get a turn after each, as with an engine."""

    async def __anext__(self) -> GenerationChunk:
        await asyncio.sleep(0)
        chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def __aiter__(self) -> Self:
        return self


class Ready(FakeEngine):
    """A token is a few characters; each answer is the same."""

    def __init__(self, answer: str) -> None:
        super().__init__(chat_templates={"default": "{# tools <think> <tool_call> #}" + CHATML}, context=100_000)
        texts = [answer[at : at + 4] for at in range(0, len(answer), 4)]
        self.pieces = [GenerationChunk(text=text, token_ids=[65]) for text in texts]
        last = self.last("", [257], None, FinishReason.STOP, None, [1], len(texts) + 1)
        self.pieces.append(replace(last, token_ids=[257]))

    def add_request(self, prompt: str | Sequence[int], params: GenerationParams | None = None, **_: Any) -> FakeHandle:
        handle = Instant(self, [1], params or GenerationParams())
        handle._chunks = iter(self.pieces)
        return handle


async def bare(engine: Ready) -> None:
    """Read the pieces and do nothing with them."""
    async for _ in engine.add_request([1]):
        pass


async def served(app: Any, body: bytes) -> int:
    """One request as the server's library hands it over; how much was sent."""
    sent, given = 0, False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.sleep(3600)
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))

    headers = [(b"content-type", b"application/json")]
    await app(scope("/v1/chat/completions", "POST", headers), receive, send)
    return sent


async def timed(streams: int, make: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    """Seconds of this thread for so many at once."""
    gc.collect()
    began = time.thread_time()
    await asyncio.gather(*(make() for _ in range(streams)))
    return time.thread_time() - began


async def run(args: argparse.Namespace) -> float:
    rows: dict[str, tuple[Ready, Any, bytes]] = {}
    for name, answer in ANSWERS.items():
        request: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        if "tools" in name or "call" in name:
            request["tools"] = TOOLS
        engine = Ready(answer)
        rows[name] = (engine, create_app(engine, model_names=["fake"]), json.dumps(request).encode())
    times: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(args.rounds + 1):
        for name, (engine, app, body) in rows.items():
            tokens = args.streams * len(engine.pieces)
            without = await timed(args.streams, lambda engine=engine: bare(engine))  # type: ignore[misc]
            whole = await timed(args.streams, lambda app=app, body=body: served(app, body))  # type: ignore[misc]
            if turn:
                times[name].append(1e6 * (whole - without) / tokens)
    for name, each in times.items():
        print(f"{name:<22} {statistics.median(each):6.1f} us a token  ({min(each):.1f} to {max(each):.1f})")
    if args.profile:
        engine, app, body = rows["thinking and a call"]
        profile = cProfile.Profile()
        profile.enable()
        await timed(args.streams, lambda: served(app, body))
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)
    return max(statistics.median(each) for each in times.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    sys.exit(asyncio.run(run(parser.parse_args())) > MOST)
