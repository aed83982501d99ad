"""OpenAI's API under a path of your own application, with the model in the same process.

It asks itself one question and ends; in a real program whatever serves `app` serves the model too.
"""

import asyncio

import httpx
from fastapi import FastAPI

from candle_vllm import InferenceEngine
from candle_vllm.server import create_app


async def main() -> None:
    with InferenceEngine.builder().model_path("smollm2").build() as engine:
        app = FastAPI()
        app.mount("/models/small", create_app(engine))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            reply = await client.post(
                "/models/small/v1/completions",
                json={"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0},
                timeout=60,
            )
            print(reply.json()["choices"][0]["text"])


asyncio.run(main())
