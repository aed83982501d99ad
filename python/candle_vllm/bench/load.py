"""Load on any OpenAI-compatible server: streamed answers, timed token by token as a client sees them.

Must not know of this package's own server or engine.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from candle_vllm.bench.figures import Spread, spread
from candle_vllm.errors import GenerationError

if TYPE_CHECKING:
    import httpx

__all__ = ["Load", "LoadReport", "run_load"]

_LONGEST_LINE = 1 << 20
_MOST_MESSAGES = 20
_WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "life",
    "world",
    "school",
    "state",
    "family",
    "group",
    "land",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent, and how fast."""

    url: str
    """Of the server, with or without `/v1`."""
    model: str | None = None
    """None = the first that the server lists."""
    chat: bool = True
    """Chat completions; False = completions."""
    requests: int = 100
    concurrency: int = 16
    """Requests under way at once, at most."""
    request_rate: float | None = None
    """Requests that arrive per second at random (Poisson); None = the next one as soon as one ends."""
    input_words: int = 64
    """English words of a prompt, about as many tokens."""
    output_tokens: int = 64
    """`max_tokens` of each request."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request."""
    api_key: str | None = None
    timeout: float = 300.0
    """Seconds that one request may take."""
    seed: int = 0
    slo_ttft_ms: float | None = None
    slo_itl_ms: float | None = None


@dataclass(slots=True)
class _Answer:
    """One request's times, from when it was due, in seconds."""

    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    whole: float = 0.0
    chunks: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None

    @property
    def tokens(self) -> int:
        """Generated tokens: as the server counts them, or chunks with text where it does not."""
        return self.chunks if self.output_tokens is None else self.output_tokens

    @property
    def per_token(self) -> float:
        """Seconds between two tokens on average; 0 with a single one."""
        return (self.whole - (self.first or 0.0)) / (self.tokens - 1) if self.tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What the load met. Times are in milliseconds; percentiles are of the requests that succeeded."""

    url: str
    model: str
    endpoint: str
    concurrency: int
    request_rate: float | None
    requests: int
    completed: int
    failed: int
    errors: dict[str, int]
    """How often each message came; at most 20 different ones are kept."""
    seconds: float
    input_tokens: int | None
    """None where the server does not count them."""
    output_tokens: int
    tokens_counted_by_server: bool
    """False: `output_tokens` counts chunks."""
    requests_per_second: float
    output_tokens_per_second: float
    ttft_ms: Spread | None
    """Time to the first text."""
    itl_ms: Spread | None
    """Time between two pieces of text, over all of them."""
    tpot_ms: Spread | None
    """A request's average time for a token after the first."""
    e2e_ms: Spread | None
    """Time to the end of the answer."""
    goodput: float | None
    """Requests per second that met every limit given; None without limits."""
    slo_ttft_ms: float | None
    slo_itl_ms: float | None


def run_load(load: Load, advance: Callable[[], None] | None = None) -> LoadReport:
    """Send it all, and wait for all answers. ``advance`` is called as each ends.

    Raises GenerationError when the server cannot be asked for its models.
    """
    return asyncio.run(_run(load, advance))


async def _run(load: Load, advance: Callable[[], None] | None) -> LoadReport:
    import httpx

    base = load.url.rstrip("/")
    base = base if base.endswith("/v1") else base + "/v1"
    headers = {} if load.api_key is None else {"Authorization": f"Bearer {load.api_key}"}
    limits = httpx.Limits(max_connections=load.concurrency, max_keepalive_connections=load.concurrency)
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=load.timeout, trust_env=False) as client:
        model = load.model or await _first_model(client, base)
        url = base + ("/chat/completions" if load.chat else "/completions")
        answers, seconds = await _send_all(load, client, url, model, advance)
    return _report(load, model, answers, seconds)


async def _first_model(client: httpx.AsyncClient, base: str) -> str:
    import httpx

    try:
        reply = await client.get(base + "/models")
        reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise GenerationError(f"{base}/models: {str(error) or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise GenerationError(f"{base}/models: the answer lists no model; name one with --model") from error


async def _send_all(
    load: Load, client: httpx.AsyncClient, url: str, model: str, advance: Callable[[], None] | None
) -> tuple[list[_Answer], float]:
    """Answers in the order of the requests, and the seconds that it took. At most `concurrency` tasks exist."""
    draw = random.Random(load.seed)
    answers: list[_Answer] = []
    began = time.perf_counter()
    due = began
    free = asyncio.Semaphore(load.concurrency)

    async def one(body: dict[str, Any], answer: _Answer, due: float) -> None:
        try:
            await _send(client, url, body, answer, due, load.timeout)
        finally:
            free.release()
            if advance is not None:
                advance()

    async with asyncio.TaskGroup() as group:
        for _ in range(load.requests):
            if load.request_rate is not None:
                due += draw.expovariate(load.request_rate)
                await asyncio.sleep(max(due - time.perf_counter(), 0))
            await free.acquire()
            answers.append(_Answer())
            # A request that had to wait for others is late by the waiting: its times run from when it was due.
            start = time.perf_counter() if load.request_rate is None else due
            group.create_task(one(_body(load, model, draw), answers[-1], start))
    return answers, time.perf_counter() - began


def _body(load: Load, model: str, draw: random.Random) -> dict[str, Any]:
    words = " ".join(draw.choices(_WORDS, k=load.input_words))
    prompt = {"messages": [{"role": "user", "content": words}]} if load.chat else {"prompt": words}
    return {
        "model": model,
        **prompt,
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **load.extra_body,
    }


async def _send(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], answer: _Answer, due: float, limit: float
) -> None:
    """Fill ``answer`` in; whatever goes wrong with the request becomes its error."""
    import httpx

    try:
        async with asyncio.timeout(limit), client.stream("POST", url, json=body) as reply:
            if reply.status_code != 200:
                said = (await reply.aread())[:300].decode(errors="replace")
                answer.error = f"HTTP {reply.status_code}: {' '.join(said.split())}"
                return
            await _read(reply, answer, due)
    except TimeoutError:
        answer.error = f"no complete answer in {limit:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"


async def _read(reply: httpx.Response, answer: _Answer, due: float) -> None:
    last = due
    ended = False
    async with aclosing(_events(reply)) as events:
        async for data in events:
            if data == b"[DONE]":
                ended = True
                break
            now = time.perf_counter()
            event = json.loads(data)
            if not isinstance(event, dict):
                raise ValueError("an event of the stream is no object")
            if event.get("error"):
                answer.error = f"in the stream: {event['error']}"[:300]
                return
            _count(event, answer)
            if _has_text(event):
                if answer.first is None:
                    answer.first = now - due
                else:
                    answer.gaps.append(now - last)
                answer.chunks += 1
                last = now
    answer.whole = time.perf_counter() - due
    if not ended:
        answer.error = "the stream broke off before [DONE]"
    elif answer.first is None and not answer.tokens:
        answer.error = "the answer is empty"
    elif answer.first is None:
        # Tokens without text, such as special ones only: they were there when the answer ended.
        answer.first = answer.whole


async def _events(reply: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event."""
    rest = b""
    async for piece in reply.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise ValueError("a line of the stream is longer than 1 MB")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _has_text(event: dict[str, Any]) -> bool:
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
            return True
    return False


def _count(event: dict[str, Any], answer: _Answer) -> None:
    usage = event.get("usage")
    if isinstance(usage, dict):
        answer.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        answer.output_tokens = int(usage.get("completion_tokens") or 0)


def _report(load: Load, model: str, answers: list[_Answer], seconds: float) -> LoadReport:
    good = [answer for answer in answers if answer.error is None]
    errors = Counter(answer.error for answer in answers if answer.error is not None)
    counted = all(answer.output_tokens is not None for answer in good)
    inputs = [answer.prompt_tokens for answer in good if answer.prompt_tokens is not None]
    made = sum(answer.tokens for answer in good)
    limited = load.slo_ttft_ms is not None or load.slo_itl_ms is not None
    return LoadReport(
        url=load.url,
        model=model,
        endpoint="chat" if load.chat else "completions",
        concurrency=load.concurrency,
        request_rate=load.request_rate,
        requests=len(answers),
        completed=len(good),
        failed=len(answers) - len(good),
        errors=dict(errors.most_common(_MOST_MESSAGES)),
        seconds=seconds,
        input_tokens=sum(inputs) if counted and good else None,
        output_tokens=made,
        tokens_counted_by_server=counted and bool(good),
        requests_per_second=len(good) / seconds,
        output_tokens_per_second=made / seconds,
        ttft_ms=spread([1e3 * (answer.first or 0.0) for answer in good]),
        itl_ms=spread([1e3 * gap for answer in good for gap in answer.gaps]),
        tpot_ms=spread([1e3 * answer.per_token for answer in good if answer.tokens > 1]),
        e2e_ms=spread([1e3 * answer.whole for answer in good]),
        goodput=sum(_met(load, answer) for answer in good) / seconds if limited else None,
        slo_ttft_ms=load.slo_ttft_ms,
        slo_itl_ms=load.slo_itl_ms,
    )


def _met(load: Load, answer: _Answer) -> bool:
    """Whether a request met the limits: time to the first text, and its average time for a token."""
    if load.slo_ttft_ms is not None and 1e3 * (answer.first or 0.0) > load.slo_ttft_ms:
        return False
    return load.slo_itl_ms is None or 1e3 * answer.per_token <= load.slo_itl_ms
