"""The Responses API with the official client: events as they come, and a second turn that names the first.

Needs `pip install openai`. The server's process here is this one; `candle-vllm serve` serves the same.
"""

import threading
from typing import Any

import uvicorn

from candle_vllm import InferenceEngine
from candle_vllm.server import create_app
from openai import OpenAI

with InferenceEngine.builder().model_path("smollm2").build() as engine:
    server = uvicorn.Server(uvicorn.Config(create_app(engine), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="not needed") as client:
            options: Any = {"model": "smollm2", "temperature": 0, "max_output_tokens": 40}
            name = ""
            for event in client.responses.create(input="Name a river in Europe.", stream=True, **options):
                if event.type == "response.created":
                    name = event.response.id
                elif event.type == "response.output_text.delta":
                    print(event.delta, end="", flush=True)
            question = "Through which countries does it flow?"
            second = client.responses.create(input=question, previous_response_id=name, **options)
            print(f"\n{second.output_text}")
            if (usage := second.usage) is not None:
                print(f"{usage.input_tokens_details.cached_tokens} of {usage.input_tokens} tokens were in the cache")
    finally:
        server.should_exit = True
        thread.join()
