"""run_batch over answers of the test's own: each line once, bounds, order, ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.batch import Answered, Journal, JournalError, Tally, UnansweredError, run_batch
from candle_vllm.batch import run as running


class Echo:
    """Answers with the prompt; counts what is under way."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.prompts: list[str] = []
        self.under_way = self.most = 0
        self.fail_at = fail_at
        self.five = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, url: str, body: Mapping[str, Any]) -> Answered:
        self.prompts.append(body["prompt"])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.under_way == 5:
            self.five.set()
        try:
            if len(self.prompts) == self.fail_at:
                raise UnansweredError("the engine is gone")
            await self.gate.wait()
            await asyncio.sleep(0.001 * (len(self.prompts) % 3))
        finally:
            self.under_way -= 1
        return Answered(200, "id", json.dumps(body["prompt"]))


def made(path: Path, prompts: list[str]) -> Path:
    lines = [
        {"custom_id": f"r{at}", "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt}}
        for at, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def answers(out: Path) -> list[tuple[str, str]]:
    """(custom_id, prompt) of each line of the output, in the order of the input."""
    found = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    return [
        (one["custom_id"], one["response"]["body"])
        for one in sorted(found, key=lambda one: int(one["id"].removeprefix("batch_req_")))
    ]


PROMPTS = [f"{'ab'[at % 2]} {at:03}" for at in range(100)]
EXPECTED = [(f"r{at}", prompt) for at, prompt in enumerate(PROMPTS)]


async def test_every_line_once_within_bounds_and_by_prompts(tmp_path: Path) -> None:
    source, out, echo = made(tmp_path / "in", PROMPTS), tmp_path / "out", Echo()
    told: list[int] = []
    with Journal(out, 10**6) as journal:
        tally = await run_batch(
            source, journal, echo, at_once=7, window=40, on_line=lambda tally: told.append(tally.lines)
        )
    assert answers(out) == EXPECTED
    assert echo.most == 7
    assert told == list(range(1, 101))
    assert tally == Tally(lines=100, failed=0, bytes=source.stat().st_size, skipped=0)
    # Within a window those that begin alike are neighbours.
    assert [prompt[0] for prompt in echo.prompts[:40]] == ["a"] * 20 + ["b"] * 20


async def test_mistakes_are_answered_too(tmp_path: Path) -> None:
    source, out = made(tmp_path / "in", ["one"]), tmp_path / "out"
    source.write_text(source.read_text() + "nonsense\n\n" + source.read_text())
    with Journal(out, 10**6) as journal:
        tally = await run_batch(source, journal, Echo(), at_once=2)
    assert (tally.lines, tally.failed) == (3, 1)
    lines = sorted(map(json.loads, out.read_text().splitlines()), key=lambda line: str(line["id"]))
    # The same custom_id twice: both are answered, and told apart by their ids.
    assert [(line["id"], line["custom_id"]) for line in lines] == [
        ("batch_req_1", "r0"),
        ("batch_req_2", None),
        ("batch_req_4", "r0"),
    ]


async def test_it_goes_on_where_it_failed(tmp_path: Path) -> None:
    source, out = made(tmp_path / "in", PROMPTS), tmp_path / "out"
    with Journal(out, 10**6) as journal, pytest.raises(UnansweredError, match="the engine is gone"):
        await run_batch(source, journal, Echo(fail_at=50), at_once=4, window=16)
    done = len(out.read_text().splitlines())
    assert 40 < done < 50
    echo = Echo()
    with Journal(out, 10**6) as journal:
        tally = await run_batch(source, journal, echo, at_once=4, window=16)
    assert (tally.skipped, len(echo.prompts)) == (done, 100 - done)
    assert tally.bytes == source.stat().st_size
    assert answers(out) == EXPECTED


async def test_stop_sees_through_what_is_under_way(tmp_path: Path) -> None:
    source, out, echo, stop = made(tmp_path / "in", PROMPTS), tmp_path / "out", Echo(), asyncio.Event()
    echo.gate.clear()
    with Journal(out, 10**6) as journal:
        run = asyncio.create_task(run_batch(source, journal, echo, at_once=5, stop=stop))
        await echo.five.wait()
        stop.set()
        echo.gate.set()
        tally = await run
    assert tally.lines == len(out.read_text().splitlines()) == len(echo.prompts) == 5


async def test_cancelling_leaves_what_is_under_way(tmp_path: Path) -> None:
    source, out, echo = made(tmp_path / "in", PROMPTS), tmp_path / "out", Echo()
    echo.gate.clear()
    with Journal(out, 10**6) as journal:
        run = asyncio.create_task(run_batch(source, journal, echo, at_once=5))
        await echo.five.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert (echo.under_way, out.read_text()) == (0, "")


async def test_another_input_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Journal(out, 10**6) as journal:
        await run_batch(made(tmp_path / "in", PROMPTS), journal, Echo(), at_once=4)
    other = made(tmp_path / "other", PROMPTS)
    other.write_text(other.read_text().replace('"r50"', '"else"'))
    with Journal(out, 10**6) as journal, pytest.raises(JournalError, match="line 51 had another custom_id than 'else'"):
        await run_batch(other, journal, Echo(), at_once=4)


async def test_a_window_holds_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WINDOW_BYTES", 250)
    echo = Echo()
    with Journal(tmp_path / "out", 10**6) as journal:
        await run_batch(made(tmp_path / "in", ["c", "b", "a", "f", "e", "d"]), journal, echo, at_once=1)
    assert echo.prompts == ["a", "b", "c", "d", "e", "f"]
