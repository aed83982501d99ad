"""How soon short answers of a small model come: whole and streamed, several clients at once, in one event loop.

    python tests/perf/whole_replies.py MODEL [--threads 1] [--clients 4] [--tokens 4] [--seconds 3] [--rounds 3]

MODEL is best tiny (`candle-vllm bench make-model tiny --quant Q4_0 --out tiny.gguf`), so that what is measured is the
way of an answer, not the model. Kinds take turns; each line is the median of the rounds.
"""

import argparse
import asyncio
import statistics
import time

from candle_vllm import InferenceEngine
from candle_vllm.openai import OpenAIAdapter

REQUEST = {"prompt": "a b c", "temperature": 0, "ignore_eos": True}


async def whole(adapter: OpenAIAdapter, tokens: int) -> None:
    await adapter.acompletion({**REQUEST, "max_tokens": tokens})


async def streamed(adapter: OpenAIAdapter, tokens: int) -> None:
    async for _ in adapter.acompletion_stream({**REQUEST, "max_tokens": tokens, "stream": True}):
        pass


async def measure(adapter: OpenAIAdapter, kind: str, clients: int, tokens: int, seconds: float) -> tuple[float, ...]:
    """Requests a second, and the median and the 90th percentile of a request in milliseconds."""
    ask = {"whole": whole, "streamed": streamed}[kind]
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < until:
            await ask(adapter, tokens)
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(clients)))
    cuts = statistics.quantiles(times, n=10)
    return len(times) / seconds, 1e3 * cuts[4], 1e3 * cuts[8]


async def run(args: argparse.Namespace) -> None:
    with (
        InferenceEngine.builder().model_path(args.model).threads(args.threads).build() as engine,
        OpenAIAdapter(engine) as adapter,
    ):
        await measure(adapter, "whole", args.clients, args.tokens, 0.5)
        found: dict[str, list[tuple[float, ...]]] = {"whole": [], "streamed": []}
        for _ in range(args.rounds):
            for kind, rows in found.items():
                rows.append(await measure(adapter, kind, args.clients, args.tokens, args.seconds))
        for kind, rows in found.items():
            rate, median, p90 = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"{kind:<9} {rate:8.0f} requests/s   median {median:.2f} ms   p90 {p90:.2f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1, help="of the model; the loop needs a core too")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(run(parser.parse_args()))
