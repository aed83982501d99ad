"""Two models in turns behind one server process, under many streams: nothing lost, mixed up or leaked.

Each round every client streams from its model, half of them from each, so that the server has to switch once; some
more clients leave in the middle. What a stream says is compared with what its model says alone, and after each round
the server's resident memory, descriptors, leases and KV blocks are read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PYTHON_SOURCES = Path(__file__).resolve().parents[2] / "python"


@dataclass(frozen=True, slots=True)
class Round:
    """The server after one round, at rest."""

    active: str
    resident: float
    """Resident memory in MB."""
    descriptors: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What all rounds came to."""

    rounds: list[Round]
    streams: int
    """Streams that were compared."""
    wrong: list[str]
    """What each stream that did not say its text said instead."""
    switches: int
    statuses: dict[str, int]
    """Status chunks by what they told."""

    def growth(self) -> dict[str, float]:
        """By active model: MB by which the later half of its rounds exceeds the earlier one, in medians.

        The first round of each model is left out: what is allocated once is not a leak.
        """
        grown = {}
        for name in {one.active for one in self.rounds}:
            sizes = [one.resident for one in self.rounds if one.active == name][1:]
            half = len(sizes) // 2
            if half:
                grown[name] = statistics.median(sizes[-half:]) - statistics.median(sizes[:half])
        return grown


class Server:
    """`candle-vllm serve` over a catalogue, as a process."""

    def __init__(self, folder: Path, models: dict[str, str], flags: Sequence[str] = ()) -> None:
        listed = [
            {"name": name, "local_path": path, "params": {"kvcache_mem_cpu": 64, "max_num_seqs": 16}}
            for name, path in models.items()
        ]
        (folder / "models.yaml").write_text(json.dumps({"models": listed}))
        self._said = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "candle_vllm", "serve", "--h", "127.0.0.1:0", "--log-level", "warning", *flags],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(PYTHON_SOURCES)])},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        end = time.monotonic() + 120
        while (found := re.search(r"serving +(http://\S+)/v1", self._said)) is None:
            if time.monotonic() > end or self._process.poll() is not None:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{self._said}")
            time.sleep(0.05)
        self.url = found[1]

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said += line

    @property
    def said(self) -> str:
        """What it wrote to standard error."""
        return self._said

    def resident(self) -> float:
        """Resident memory in MB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        if self._process.stderr is not None:
            self._process.stderr.close()


@contextlib.contextmanager
def serving(models: dict[str, str], flags: Sequence[str] = ()) -> Iterator[Server]:
    """A server in a folder of its own, ended at the end."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), models, flags)
        try:
            yield server
        finally:
            server.stop()


async def switch_under_streams(server: Server, names: Sequence[str], *, rounds: int, streams: int) -> Report:
    """Run all rounds; see the head of this file. Raises when the server does not come to rest."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        alone = {(name, at): (await _stream(client, name, at))[0] for name in names for at in range(streams)}
        statuses: dict[str, int] = {}
        wrong: list[str] = []
        seen: list[Round] = []
        before = await _switches(client)
        chance = random.Random(14)
        for number in range(rounds):
            began = time.monotonic()
            leaving = [_leave(client, names[at % 2], chance.random() * 0.3) for at in range(streams // 8)]
            asked = [(names[(at + number) % len(names)], at) for at in range(streams)]
            answers = await asyncio.gather(*(_stream(client, *one) for one in asked), *leaving)
            for one, answer in zip(asked, answers, strict=False):
                assert answer is not None
                text, told = answer
                if text != alone[one]:
                    wrong.append(f"{one}: {text!r} for {alone[one]!r}")
                for status in told:
                    statuses[status] = statuses.get(status, 0) + 1
            active = await _at_rest(client)
            seen.append(Round(active, server.resident(), server.descriptors(), time.monotonic() - began))
        return Report(seen, rounds * streams, wrong, await _switches(client) - before, statuses)


async def _stream(client: httpx.AsyncClient, name: str, at: int) -> tuple[str, list[str]]:
    """The text of one stream, and the statuses that it told."""
    body = {"model": name, "prompt": f"Number {at} is", "max_tokens": 24, "temperature": 0, "stream": True}
    told: list[str] = []
    text, ended = "", False
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        if reply.status_code != 200:
            return f"{reply.status_code} {(await reply.aread()).decode()}", told
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    return f"error {chunk['error']}", told
                if metadata := chunk.get("candle_metadata"):
                    told.append(metadata["status"])
                text += "".join(choice["text"] for choice in chunk["choices"])
    return (text if ended else f"cut short: {text}"), told


async def _leave(client: httpx.AsyncClient, name: str, seconds: float) -> None:
    """A client that goes away, wherever its request is by then."""
    body = {"model": name, "prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await client.post("/v1/completions", json=body)


async def _at_rest(client: httpx.AsyncClient) -> str:
    """The active model, once nothing holds it, waits, or has a block of its cache."""
    end = time.monotonic() + 60
    while True:
        status: dict[str, Any] = (await client.get("/v1/models/status")).json()
        engine = (await client.get("/ready")).json()["engine"]
        idle = status["status"] == "ready" and not status["in_flight_requests"]
        free = engine is not None and engine["kv_blocks_free"] == engine["kv_blocks_total"]
        if idle and free and not any(status["queue_lengths"].values()):
            return str(status["active_model"])
        if time.monotonic() > end:
            raise RuntimeError(f"the server does not come to rest: {status} {engine}")
        await asyncio.sleep(0.05)


async def _switches(client: httpx.AsyncClient) -> int:
    """Switches so far, by the server's own count."""
    text = (await client.get("/metrics")).text
    counts = re.findall(r"^candle_vllm_model_switch_seconds_count\{.*\} (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, counts)))


def main() -> int:
    """Run it and print the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="local folder or .gguf file")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="each of one switch (20)")
    parser.add_argument("--streams", type=int, default=32, metavar="N", help="at once (32)")
    parser.add_argument("--most-growth", type=float, default=8.0, metavar="MB", help="that counts as flat (8)")
    args = parser.parse_args()
    models = {f"m{at}": str(Path(path).resolve()) for at, path in enumerate(args.models)}
    with serving(models, ["--queue-size", str(2 * args.streams)]) as server:
        report = asyncio.run(switch_under_streams(server, list(models), rounds=args.rounds, streams=args.streams))
    for number, one in enumerate(report.rounds):
        print(f"{number:3} {one.active} {one.resident:8.1f} MB {one.descriptors:4} files {one.seconds:6.1f} s")
    growth = report.growth()
    print(
        f"{report.switches} switches, {report.streams} streams, {len(report.wrong)} wrong, statuses {report.statuses}"
    )
    print("growth:", ", ".join(f"{name} {grown:+.1f} MB" for name, grown in sorted(growth.items())))
    for wrong in report.wrong[:10]:
        print(wrong)
    return 1 if report.wrong or max(growth.values(), default=0.0) > args.most_growth else 0


if __name__ == "__main__":
    sys.exit(main())
