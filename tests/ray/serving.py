"""Run by test_application.py: two replicas, a stream, 60 requests while one is killed, and lines of a batch."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import httpx
import ray
from ray import serve

from candle_vllm import EngineConfig
from candle_vllm.ray import RayAnswering, RayConfig, serve_app


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
        replies: list[httpx.Response] = []

        async def one(at: int) -> None:
            replies.append(await client.post("/v1/completions", json=body(at)))
            if len(replies) == 10:
                os.kill(replica(), signal.SIGKILL)

        await asyncio.gather(*(one(at) for at in range(60)))
        kinds = {reply.status_code for reply in replies}
        assert len(replies) == 60 and kinds <= {200, 503}, kinds
        assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 503)
        good = [reply.json()["id"] for reply in replies if reply.status_code == 200]
        assert len(set(good)) == len(good) > 20, len(good)


def replica() -> int:
    """The process of one of them."""
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"ServeReplica:candle-vllm:Replica" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no replica is alive")


async def lines() -> None:
    answer = RayAnswering(serve.get_deployment_handle("Replica", "candle-vllm"))
    found = await asyncio.gather(*(answer("/v1/completions", body(at)) for at in range(8)))
    assert {one.status for one in found} == {200}
    assert (await answer("/v1/completions", {"prompt": 3})).status == 400


def main() -> None:
    engine = EngineConfig(model_path=sys.argv[1], dtype="f32", threads=1, kv_cache_memory=64 << 20)
    port = free_port()
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(serve_app(RayConfig(engine=engine, replicas=2, cpus=0.5)), name="candle-vllm")
    asyncio.run(over_http(f"http://127.0.0.1:{port}"))
    asyncio.run(lines())
    serve.shutdown()
    ray.shutdown()
    print("all is well")


if __name__ == "__main__":
    main()
