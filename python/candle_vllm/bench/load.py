"""Load on any OpenAI-compatible server: streamed answers, timed token by token as a client sees them.

Must not know of this package's own server or engine.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from candle_vllm.bench.figures import Spread, spread
from candle_vllm.bench.streams import EventSource, StreamError
from candle_vllm.errors import GenerationError

__all__ = ["Load", "LoadReport", "run_load"]

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
    duration: float | None = None
    """Seconds for which requests are sent, however many that makes; None = until all `requests` are."""
    drop: float = 0.0
    """Share of requests, 0 to 1, whose client leaves at a random moment before the answer is likely to be complete."""
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

    due: float
    last: float = 0.0
    ended: bool = False
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    whole: float = 0.0
    chunks: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    left: bool = False
    """The client went away, as it was told to."""
    refused: bool = False
    """The server said that it is busy (503 `server_busy`), as it should when more comes than it takes."""

    @property
    def tokens(self) -> int:
        """Generated tokens: as the server counts them, or chunks with text where it does not."""
        return self.chunks if self.output_tokens is None else self.output_tokens

    @property
    def per_token(self) -> float:
        """Seconds between two tokens on average; 0 with a single one."""
        return (self.whole - (self.first or 0.0)) / (self.tokens - 1) if self.tokens > 1 else 0.0

    def take(self, data: bytes) -> bool:
        """The next event, now; True when it is the last. Raises ValueError for what is no event of OpenAI's API."""
        now = time.perf_counter()
        if data == b"[DONE]":
            self.ended = True
            self.whole = now - self.due
            return True
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError("an event of the stream is no object")
        if event.get("error"):
            self.error = f"in the stream: {event['error']}"[:300]
            return True
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)
        if _has_text(event):
            if self.first is None:
                self.first = now - self.due
            else:
                self.gaps.append(now - self.last)
            self.chunks += 1
            self.last = now
        return False

    def close(self) -> None:
        """After the last event: whether it is an answer."""
        if not self.ended:
            self.error = "the stream broke off before [DONE]"
        elif self.first is None and not self.tokens:
            self.error = "the answer is empty"
        elif self.first is None:
            # Tokens without text, such as special ones only: they were there when the answer ended.
            self.first = self.whole


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
    left: int
    """Whose client went away on purpose."""
    refused: int
    """Turned away as too many (503 `server_busy`)."""
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
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(load, advance))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop where it is installed: it takes less of the cores that the server may need."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


async def _run(load: Load, advance: Callable[[], None] | None) -> LoadReport:
    base = load.url.rstrip("/")
    base = base if base.endswith("/v1") else base + "/v1"
    headers = {} if load.api_key is None else {"Authorization": f"Bearer {load.api_key}"}
    model = load.model or await _first_model(base, headers)
    try:
        source = EventSource(base, headers)
    except (StreamError, ValueError) as error:
        raise GenerationError(str(error)) from error
    try:
        answers, seconds = await _send_all(load, source, model, advance)
    finally:
        await source.close()
    return _report(load, model, answers, seconds)


async def _first_model(base: str, headers: dict[str, str]) -> str:
    import httpx

    try:
        async with httpx.AsyncClient(headers=headers, timeout=30.0, trust_env=False) as client:
            reply = await client.get(base + "/models")
        reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise GenerationError(f"{base}/models: {str(error) or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise GenerationError(f"{base}/models: the answer lists no model; name one with --model") from error


async def _send_all(
    load: Load, source: EventSource, model: str, advance: Callable[[], None] | None
) -> tuple[list[_Answer], float]:
    """Answers in the order of the requests, and the seconds that it took. At most `concurrency` tasks exist."""
    draw = random.Random(load.seed)
    answers: list[_Answer] = []
    began = time.perf_counter()
    due = began
    free = asyncio.Semaphore(load.concurrency)

    path = "/chat/completions" if load.chat else "/completions"

    async def one(body: bytes, answer: _Answer, patience: float | None) -> None:
        try:
            async with asyncio.timeout(patience):
                await _send(source, path, body, answer, load.timeout)
        except TimeoutError:
            answer.left = True
        finally:
            free.release()
            if advance is not None:
                advance()

    async with asyncio.TaskGroup() as group:
        for _ in range(load.requests) if load.duration is None else count():
            if load.request_rate is not None:
                due += draw.expovariate(load.request_rate)
                await asyncio.sleep(max(due - time.perf_counter(), 0))
            await free.acquire()
            if load.duration is not None and time.perf_counter() - began > load.duration:
                break
            body = json.dumps(_body(load, model, draw)).encode()
            # A request that had to wait for others is late by the waiting: its times run from when it was due.
            answers.append(_Answer(time.perf_counter() if load.request_rate is None else due))
            group.create_task(one(body, answers[-1], _patience(load, draw, answers)))
    return answers, time.perf_counter() - began


def _patience(load: Load, draw: random.Random, answers: list[_Answer]) -> float | None:
    """Seconds after which a client leaves: within the time that recent answers took; None for one that stays."""
    if draw.random() >= load.drop:
        return None
    recent = [answer.whole for answer in answers[-200:] if answer.whole]
    return draw.uniform(0.0, statistics.mean(recent) if recent else 1.0)


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


async def _send(source: EventSource, path: str, body: bytes, answer: _Answer, limit: float) -> None:
    """Fill ``answer`` in; whatever goes wrong with the request becomes its error."""
    try:
        async with asyncio.timeout(limit):
            status, said = await source.post(path, body, answer.take)
    except TimeoutError:
        answer.error = f"no complete answer in {limit:g} s"
        return
    except (OSError, StreamError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
        return
    if status != 200:
        answer.refused = status == 503 and b"server_busy" in said
        answer.error = f"HTTP {status}: {' '.join(said.decode(errors='replace').split())}"
    elif answer.error is None:
        answer.close()


def _has_text(event: dict[str, Any]) -> bool:
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
            return True
    return False


def _report(load: Load, model: str, answers: list[_Answer], seconds: float) -> LoadReport:
    left, refused = sum(answer.left for answer in answers), sum(answer.refused for answer in answers)
    good = [answer for answer in answers if answer.error is None and not answer.left]
    errors = Counter(answer.error for answer in answers if answer.error is not None and not answer.refused)
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
        left=left,
        refused=refused,
        failed=len(answers) - len(good) - left - refused,
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
