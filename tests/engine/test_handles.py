"""Handles: reading by threads and by tasks, cancelling in every way, and what is left behind (nothing)."""

import asyncio
import gc
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from candle_vllm import (
    ConfigError,
    FinishReason,
    GenerationParams,
    InferenceEngine,
    QueueFullError,
    RequestCancelledError,
    RequestHandle,
    RequestTimeoutError,
)

LONG = GenerationParams(max_tokens=500, temperature=0, ignore_eos=True)
ENDLESS = GenerationParams(max_tokens=60_000, temperature=0, ignore_eos=True)
SHORT = GenerationParams(max_tokens=5, temperature=0, ignore_eos=True)


def idle(engine: InferenceEngine) -> None:
    """Within a moment nothing runs, nothing waits and every block is free."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        stats = engine.stats()
        if stats.running == stats.waiting == 0 and stats.kv_blocks_free == stats.kv_blocks_total:
            return
        time.sleep(0.002)
    raise AssertionError(engine.stats())


@pytest.fixture(autouse=True)
def nothing_left(tiny_engine: InferenceEngine, endless_engine: InferenceEngine) -> Iterator[None]:
    yield
    idle(tiny_engine)
    idle(endless_engine)


def test_result_and_chunks_of_one_handle(tiny_engine: InferenceEngine) -> None:
    handle = tiny_engine.add_request([7], SHORT)
    first = next(handle)
    output = handle.result()
    assert output.tokens[: len(first.token_ids)] == first.token_ids
    assert output.tokens == tiny_engine.generate([7], SHORT).tokens
    assert handle.done
    assert handle.result() == output
    assert list(handle) == []
    assert handle.prompt_tokens == [7]
    assert repr(handle) == f"<RequestHandle {handle.id}: ended>"


def test_ids_are_unique(tiny_engine: InferenceEngine) -> None:
    handles = [tiny_engine.add_request([7], SHORT) for _ in range(5)]
    assert len({handle.id for handle in handles}) == 5
    assert len({tuple(handle.result().tokens) for handle in handles}) == 1


@pytest.mark.parametrize("how", ["cancel", "number", "engine"])
def test_cancelling_gives_a_last_chunk(endless_engine: InferenceEngine, how: str) -> None:
    handle = endless_engine.add_request([7], ENDLESS)
    first = next(handle)
    ways: dict[str, Callable[[], None]] = {
        "cancel": handle.cancel,
        "number": lambda: endless_engine.cancel_request(handle.id),
        "engine": lambda: endless_engine.cancel_request(handle),
    }
    ways[how]()
    chunks = [first, *handle]
    assert chunks[-1].finish_reason is FinishReason.CANCELLED
    output = handle.result()
    assert output.finish_reason is FinishReason.CANCELLED
    assert output.tokens == [token for chunk in chunks for token in chunk.token_ids]
    assert len(output.tokens) < 60_000
    handle.cancel()
    endless_engine.cancel_request(10**9)


@pytest.mark.parametrize("how", ["close", "with", "drop", "break"])
def test_leaving_a_stream_frees_it(endless_engine: InferenceEngine, how: str) -> None:
    if how == "break":
        for _ in endless_engine.stream([7], ENDLESS):
            break
    else:
        handle = endless_engine.stream([7], ENDLESS)
        next(handle)
        if how == "close":
            handle.close()
            handle.close()
            assert list(handle) == []
            with pytest.raises(RequestCancelledError, match="was closed"):
                handle.result()
        elif how == "with":
            with handle:
                next(handle)
            assert handle.done
        del handle
    idle(endless_engine)


def test_a_queued_request_can_be_cancelled(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(endless=True, max_batch_size=1)
    running, queued = engine.add_request([7], ENDLESS), engine.add_request([8], ENDLESS)
    next(running)
    assert engine.stats().waiting == 1
    queued.cancel()
    assert queued.result(timeout=2).tokens == []
    running.cancel()
    idle(engine)


def test_a_result_can_time_out(endless_engine: InferenceEngine) -> None:
    handle = endless_engine.add_request([7], ENDLESS)
    with pytest.raises(RequestTimeoutError) as caught:
        handle.result(timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    assert not handle.done
    assert next(handle).finish_reason is None
    handle.close()


def test_cancelling_from_another_thread(endless_engine: InferenceEngine) -> None:
    handle = endless_engine.add_request([7], ENDLESS)
    threading.Timer(0.02, handle.cancel).start()
    assert handle.result(timeout=5).finish_reason is FinishReason.CANCELLED


def test_many_threads_at_once(tiny_engine: InferenceEngine) -> None:
    wanted = [tiny_engine.generate([5, n], SHORT).tokens for n in range(16)]
    got: dict[int, list[int]] = {}

    def work(n: int) -> None:
        for _ in range(5):
            got[n] = tiny_engine.generate([5, n], SHORT).tokens

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[n] for n in range(16)] == wanted


async def test_async_answers_are_the_blocking_ones(tiny_engine: InferenceEngine) -> None:
    prompts = [[5, n] for n in range(20)]
    wanted = [output.tokens for output in tiny_engine.generate(prompts, SHORT)]
    outputs = await tiny_engine.generate_async(prompts, SHORT)
    assert [output.tokens for output in outputs] == wanted
    assert (await tiny_engine.generate_async(prompts[0], SHORT)).tokens == wanted[0]

    async def streamed(prompt: list[int]) -> list[int]:
        return [token async for chunk in tiny_engine.generate_stream(prompt, SHORT) for token in chunk.token_ids]

    assert await asyncio.gather(*(streamed(prompt) for prompt in prompts)) == wanted
    assert (await tiny_engine.add_request(prompts[3], SHORT)).tokens == wanted[3]


async def test_a_long_text_leaves_the_loop_free(tiny_engine: InferenceEngine) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.ensure_future(turn())
    with pytest.raises(ConfigError, match="max_sequence_length"):
        await tiny_engine.generate_async("word " * 100_000, SHORT)
    turning.cancel()
    # Encoded in the loop's own thread it would turn a few times: before and after.
    assert turns > 50


async def test_the_loop_turns_meanwhile(tiny_engine: InferenceEngine) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(turn())
    await tiny_engine.generate_async([7], LONG)
    task.cancel()
    assert turns > 100


@pytest.mark.parametrize("how", ["generate", "list", "stream", "handle"])
async def test_cancelling_a_task_frees_its_requests(endless_engine: InferenceEngine, how: str) -> None:
    async def stream() -> None:
        async for _ in endless_engine.generate_stream([7], ENDLESS):
            pass

    async def handle() -> None:
        await endless_engine.add_request([7], ENDLESS)

    aborts = endless_engine.stats().aborts
    work = {
        "generate": lambda: endless_engine.generate_async([7], ENDLESS),
        "list": lambda: endless_engine.generate_async([[7], [8], [9]], ENDLESS),
        "stream": stream,
        "handle": handle,
    }[how]()
    task = asyncio.create_task(work)
    await asyncio.sleep(0.02)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    idle(endless_engine)
    assert endless_engine.stats().aborts == aborts + (3 if how == "list" else 1)


@pytest.mark.parametrize("how", ["aclose", "async with", "break"])
async def test_leaving_an_async_stream_frees_it(endless_engine: InferenceEngine, how: str) -> None:
    if how == "break":
        async for _ in endless_engine.generate_stream([7], ENDLESS):
            break
    elif how == "aclose":
        stream = endless_engine.generate_stream([7], ENDLESS)
        await anext(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    else:
        async with endless_engine.generate_stream([7], ENDLESS) as stream:
            await anext(stream)
    idle(endless_engine)


async def test_dropping_half_of_64_streams(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(endless=True, max_batch_size=64)
    wanted = [output.tokens for output in engine.generate([[5, n] for n in range(64)], SHORT)]

    async def read(n: int) -> list[int]:
        tokens: list[int] = []
        async for chunk in engine.generate_stream([5, n], SHORT if n % 2 else ENDLESS):
            tokens += chunk.token_ids
            if n % 2 == 0 and len(tokens) >= 3:
                break
        return tokens

    got = await asyncio.gather(*(read(n) for n in range(64)))
    assert [tokens for n, tokens in enumerate(got) if n % 2] == wanted[1::2]
    assert all(tokens[:3] == wanted[n][:3] for n, tokens in enumerate(got))
    idle(engine)


@pytest.mark.parametrize("rests", [True, False])
async def test_a_loop_rests_after_handing_out(
    endless_engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch, rests: bool
) -> None:
    from candle_vllm.engine import inbox

    monkeypatch.setattr(inbox, "_REST", 1e9 if rests else 0.0)
    monkeypatch.setattr(inbox, "_LONGEST_REST", 0.06)
    params = GenerationParams(max_tokens=8_000, temperature=0, ignore_eos=True)
    times = []
    tokens: list[int] = []
    async for chunk in endless_engine.add_request([1, 2, 3], params):
        times.append(time.monotonic())
        tokens += chunk.token_ids
    gaps = [b - a for a, b in itertools.pairwise(times)]
    if rests:
        # What comes meanwhile arrives as one chunk, but the end does not wait; nothing is lost.
        assert len(gaps) > 2
        assert min(gaps[:-1]) > 0.04
    else:
        assert len(gaps) > 5
        assert statistics.median(gaps) < 0.1
    assert tokens == endless_engine.generate([1, 2, 3], params).tokens


async def test_beginnings_and_ends_do_not_wait_for_the_rest(
    endless_engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from candle_vllm.engine import inbox

    monkeypatch.setattr(inbox, "_REST", 1e9)
    monkeypatch.setattr(inbox, "_LONGEST_REST", 60.0)
    resting = endless_engine.add_request([1, 2, 3], ENDLESS)
    await anext(resting)
    # The loop rests for a minute now. Whole answers and first chunks come all the same.
    async with asyncio.timeout(20):
        for prompt in ([5, 1], [5, 2]):
            assert len((await endless_engine.generate_async(prompt, SHORT)).tokens) == 5
        async with endless_engine.generate_stream([5, 3], ENDLESS) as stream:
            assert (await anext(stream)).token_ids
        resting.cancel()
        assert [chunk.finish_reason async for chunk in resting][-1] == FinishReason.CANCELLED


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_blocking_streams_cost_no_descriptors(endless_engine: InferenceEngine) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    streams = [endless_engine.stream([5, n], ENDLESS) for n in range(12)]
    assert all(next(stream).token_ids for stream in streams)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    for stream in streams:
        stream.close()


async def test_one_reader_at_a_time(endless_engine: InferenceEngine) -> None:
    handle = endless_engine.add_request([7], ENDLESS)
    reading = asyncio.create_task(handle.result_async())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one reader at a time"):
        await anext(handle)
    handle.close()
    with pytest.raises(RequestCancelledError):
        await reading


async def test_a_blocking_read_inside_the_loop(tiny_engine: InferenceEngine) -> None:
    handle, other = tiny_engine.add_request([7], SHORT), tiny_engine.add_request([8], SHORT)
    reading = asyncio.create_task(other.result_async())
    await asyncio.sleep(0)
    assert len(handle.result(timeout=5).tokens) == 5
    assert len((await reading).tokens) == 5


async def test_a_handle_of_the_loop_read_in_a_thread(tiny_engine: InferenceEngine) -> None:
    handle, other = tiny_engine.add_request([7], LONG), tiny_engine.add_request([8], SHORT)
    in_thread = asyncio.create_task(asyncio.to_thread(handle.result, 20))
    assert len((await other).tokens) == 5
    assert len((await in_thread).tokens) == 500


def test_a_handle_made_outside_read_in_a_loop(tiny_engine: InferenceEngine) -> None:
    handle = tiny_engine.add_request([7], SHORT)
    next(handle)

    async def rest() -> list[int]:
        return [token async for chunk in handle for token in chunk.token_ids]

    asyncio.run(rest())
    assert handle.result().tokens == tiny_engine.generate([7], SHORT).tokens


def test_a_handle_outlives_its_loop(tiny_engine: InferenceEngine) -> None:
    async def start() -> RequestHandle:
        handle = tiny_engine.add_request([7], LONG)
        await anext(handle)
        return handle

    handle = asyncio.run(start())
    assert len(handle.result(timeout=20).tokens) == 500


def test_a_loop_that_stands_still(tiny_engine: InferenceEngine) -> None:
    async def start() -> RequestHandle:
        handle = tiny_engine.add_request([7], LONG)
        await anext(handle)
        return handle

    with asyncio.Runner() as runner, asyncio.Runner() as other:
        first, second, third = (runner.run(start()) for _ in range(3))
        assert len(first.result(timeout=20).tokens) == 500
        assert len(runner.run(second.result_async()).tokens) == 500
        assert len(other.run(asyncio.wait_for(third.result_async(), 20)).tokens) == 500


def test_loops_leave_nothing_behind(endless_engine: InferenceEngine) -> None:
    async def work() -> None:
        await endless_engine.generate_async([[7], [8]], SHORT)
        stream = endless_engine.generate_stream([7], ENDLESS)
        await anext(stream)
        asyncio.get_running_loop().stray = stream  # type: ignore[attr-defined]

    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(work())
        loop.close()
        del loop
    gc.collect()
    idle(endless_engine)
    assert len(endless_engine._by_loop) == 0
    assert len(endless_engine._inboxes) == 0


def test_a_loop_without_readers(tiny_engine: InferenceEngine) -> None:
    """Such as the proactor loop of Windows."""

    class Readerless(asyncio.SelectorEventLoop):
        def add_reader(self, *args: object) -> None:
            raise NotImplementedError

    async def work() -> list[list[int]]:
        outputs = [o.tokens for o in await tiny_engine.generate_async([[5, n] for n in range(8)], SHORT)]
        await asyncio.sleep(0.3)
        outputs += [[t async for c in tiny_engine.generate_stream([5, 9], SHORT) for t in c.token_ids]]
        return outputs

    with asyncio.Runner(loop_factory=Readerless) as runner:
        got = runner.run(work())
    assert got == [o.tokens for o in tiny_engine.generate([[5, n] for n in (*range(8), 9)], SHORT)]
    deadline = time.monotonic() + 5
    while any(thread.name == "candle-vllm-inbox" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_uvloop_serves_too(tiny_engine: InferenceEngine) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work() -> int:
        return len((await tiny_engine.generate_async([7], LONG)).tokens)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(work()) == 500


def test_a_full_queue_refuses(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(endless=True, max_batch_size=2, max_queue=1)
    handles = [engine.add_request([7], ENDLESS) for _ in range(3)]
    with pytest.raises(QueueFullError, match="max_queue"):
        engine.add_request([7], ENDLESS)
    for handle in handles:
        handle.close()
    idle(engine)
    assert len(engine.generate([7], SHORT).tokens) == 5


def test_a_list_waits_for_room_in_the_queue(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(max_batch_size=2, max_queue=1)
    prompts = [[5, n] for n in range(12)]
    wanted = [engine.generate(prompt, SHORT).tokens for prompt in prompts]
    assert [output.tokens for output in engine.generate(prompts, SHORT)] == wanted

    async def work() -> list[list[int]]:
        return [output.tokens for output in await engine.generate_async(prompts, SHORT)]

    assert asyncio.run(work()) == wanted


def test_stepping_by_hand(tiny: Callable[..., InferenceEngine], tiny_engine: InferenceEngine) -> None:
    engine = tiny(background=False)
    handles = [engine.add_request([5, n], SHORT) for n in range(3)]
    wanted = [output.tokens for output in tiny_engine.generate([[5, n] for n in range(3)], SHORT)]
    # An engine that runs by itself has answered meanwhile; this one has not moved.
    assert engine.stats().steps == 0
    assert not any(handle.done for handle in handles)
    steps = 0
    while (report := engine.step()).has_work:
        steps += 1
        assert report.sequences <= 3
    assert steps == 4
    assert [handle.result().tokens for handle in handles] == wanted
    with pytest.raises(ConfigError, match="background=False"):
        tiny_engine.step()


def test_callers_drive_an_engine_that_is_stepped(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(background=False)
    wanted = [output.tokens for output in engine.generate([[5, n] for n in range(3)], SHORT)]
    assert [t for chunk in engine.stream([5, 1], SHORT) for t in chunk.token_ids] == wanted[1]

    async def work() -> list[list[int]]:
        return [output.tokens for output in await engine.generate_async([[5, n] for n in range(3)], SHORT)]

    assert asyncio.run(work()) == wanted
    idle(engine)


def test_priority_and_salt_reach_the_engine(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(max_batch_size=1, background=False)
    late = engine.add_request([7], SHORT, priority=1)
    soon = engine.add_request([8], SHORT, priority=-1)
    assert len(soon.result().tokens) == 5
    assert not late.done
    late.close()
    prompt = list(range(3, 103))
    assert engine.generate(prompt, SHORT, cache_salt="a").stats.cached_tokens == 0
    assert engine.generate(prompt, SHORT, cache_salt="a").stats.cached_tokens > 0
    assert engine.generate(prompt, SHORT, cache_salt="b").stats.cached_tokens == 0
    assert engine.generate(prompt, SHORT).stats.cached_tokens == 0
