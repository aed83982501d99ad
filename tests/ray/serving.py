"""Run by test_application.py: two replicas, a stream, 60 requests while one is killed, and more while one's engine
has failed, and lines of a batch."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import httpx
import ray
from ray import serve

from candle_vllm import EngineConfig
from candle_vllm.ray import RayAnswering, RayConfig, application, serve_app

BEGAN = time.monotonic()


class Poisonable(application.Replica):
    """A replica whose engine can be made to refuse every call, as it does once it has failed."""

    async def poison(self, keys: object) -> int:
        """Close the engine a second from now, for the process may end at once. Returns the process."""
        engine = self._models.active.engine
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, lambda: loop.run_in_executor(None, engine.close))
        return os.getpid()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def body(at: int, **more: Any) -> dict[str, Any]:
    prompt = [at % 300 + 3, 5, 6, 7]
    return {"prompt": prompt, "max_tokens": 300, "temperature": 0, "ignore_eos": True, **more}


async def over_http(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        first = await client.post("/v1/completions", json=body(0))
        assert first.status_code == 200, first.text
        again = await client.post("/v1/completions", json=body(0))
        assert first.json()["choices"] == again.json()["choices"]
        streamed = await client.post("/v1/completions", json=body(0, stream=True))
        assert streamed.text.rstrip().endswith("data: [DONE]")
        assert (await client.post("/v1/completions", json=body(0, temperature=9))).status_code == 400
        assert (await client.get("/v1/models")).status_code == 200
        note("asked a little")
        victim = replicas()[0]
        replies: list[httpx.Response] = []

        async def one(at: int) -> None:
            replies.append(await client.post("/v1/completions", json=body(at)))
            if len(replies) == 10:
                os.kill(victim, signal.SIGKILL)

        await asyncio.gather(*(one(at) for at in range(60)))
        assert_kept(replies, 60, 21)
        note("one was killed")
        await asyncio.to_thread(both_but, victim)
        note("two again")
        # One after the other: of two replicas the one that refuses at once would be asked each time.
        dead = await serve.get_deployment_handle("Replica", "candle-vllm").options(method_name="poison").remote(())
        replies = []
        deadline = time.monotonic() + 120
        while dead in replicas() and time.monotonic() < deadline:
            replies.append(await client.post("/v1/completions", json=body(len(replies), max_tokens=5)))
        replies += [await client.post("/v1/completions", json=body(at, max_tokens=5)) for at in range(60)]
        assert_kept(replies, len(replies), len(replies) - 10)
        await asyncio.to_thread(both_but, dead)
        note("one was poisoned")


def assert_kept(replies: list[httpx.Response], count: int, least: int) -> None:
    """All answered once or refused for another try, and at least so many answered."""
    kinds = {reply.status_code for reply in replies}
    assert len(replies) == count and kinds <= {200, 503}, kinds
    assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 503)
    good = [reply.json()["id"] for reply in replies if reply.status_code == 200]
    assert len(set(good)) == len(good) >= least, len(good)


def both_but(dead: int) -> None:
    """Return once two replicas serve, and this process is none of them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = serve.status().applications["candle-vllm"].deployments["Replica"].replica_states
        if found == {"RUNNING": 2} and len(set(replicas()) - {dead}) == 2:
            return
        time.sleep(0.2)
    raise AssertionError(f"there are no two replicas: {found}")


def replicas() -> list[int]:
    """Process ids of the replicas that this program has started, and of no other one's on the machine."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and b"ServeReplica:candle-vllm:Replica" in (folder / "cmdline").read_bytes()
                and os.getpid() in ancestors(int(folder.name))
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


def ancestors(process: int) -> list[int]:
    """The processes that it comes from, its parent first."""
    found: list[int] = []
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


async def lines() -> None:
    answer = RayAnswering(serve.get_deployment_handle("Replica", "candle-vllm"))
    found = await asyncio.gather(*(answer("/v1/completions", body(at)) for at in range(8)))
    assert {one.status for one in found} == {200}
    assert (await answer("/v1/completions", {"prompt": 3})).status == 400


def note(what: str) -> None:
    """Where it is, for whoever reads the output of a failure."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {what}", flush=True)


def main() -> None:
    engine = EngineConfig(model_path=sys.argv[1], dtype="f32", threads=1, kv_cache_memory=64 << 20)
    port = free_port()
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    application.Replica = Poisonable  # type: ignore[misc]
    serve.run(serve_app(RayConfig(engine=engine, replicas=2, cpus=0.5)), name="candle-vllm")
    note("running")
    asyncio.run(over_http(f"http://127.0.0.1:{port}"))
    asyncio.run(lines())
    note("lines of a batch")
    serve.shutdown()
    ray.shutdown()
    print("all is well")


if __name__ == "__main__":
    main()
