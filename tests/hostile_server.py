"""The server that hostile requests are sent to: the real one, less patient. usage: hostile_server.py MODEL

Prints its port; then, whenever a line comes in, for how long the event loop's thread computed at the longest without a
turn of the loop. That is its own time: how long others kept the processor busy meanwhile says nothing.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time

import uvicorn

from candle_vllm import InferenceEngine
from candle_vllm.server import BoundarySettings, Limits, create_app, parse_keys
from candle_vllm.server.hosts import LOOPBACK_HOSTS
from candle_vllm.server.listen import uvicorn_config
from candle_vllm.server.protocol import BoundedProtocol


class Impatient(BoundedProtocol):
    """One second for a head, and for what comes after a reply."""

    header_seconds = 1.0
    linger_seconds = 1.0


class Watch:
    """The longest step of the loop, in seconds of its thread's own time."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Look at every turn."""
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest = max(self.longest, now - last)
            last = now

    def tell(self) -> None:
        """Print it and begin anew."""
        if not sys.stdin.readline():
            asyncio.get_running_loop().remove_reader(sys.stdin)
            return
        print(f"{self.longest:.6f}", flush=True)
        self.longest = 0.0


async def serve(model: str) -> None:
    """Serve until ended."""
    limits = Limits(body_grace=1.0, body_rate=1_000_000)
    boundary = BoundarySettings(api_keys=parse_keys(["tester sk-test"]), allowed_hosts=LOOPBACK_HOSTS, limits=limits)
    with (
        InferenceEngine.builder().model_path(model).dtype("f32").threads(1).kv_cache_memory(16 << 20).build() as engine,
        socket.create_server(("127.0.0.1", 0), backlog=64) as listener,
    ):
        config = uvicorn_config(create_app(engine, model_names=["tiny"], boundary=boundary))
        config.http = Impatient
        watch = Watch()
        looking = asyncio.create_task(watch.run())
        asyncio.get_running_loop().add_reader(sys.stdin, watch.tell)
        gc.collect()
        gc.freeze()
        print(listener.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve(sockets=[listener])
        looking.cancel()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
