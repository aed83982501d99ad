"""The official OpenAI client, unchanged, against `candle-vllm serve` in a process of its own.

Needs `pip install openai`. With a server that runs already, only `OpenAI(base_url=...)` and what follows is needed.
"""

import re
import subprocess
import sys

from openai import OpenAI

QUESTION = "What is the capital of France? Answer in one sentence."

command = [sys.executable, "-m", "candle_vllm", "serve", "smollm2", "--h", "127.0.0.1", "--p", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as server:
    try:
        assert server.stderr is not None
        address = next(found[1] for line in server.stderr if (found := re.search(r"serving +(http\S+)", line)))
        with OpenAI(base_url=address, api_key="not needed") as client:
            stream = client.chat.completions.create(
                model="smollm2", messages=[{"role": "user", "content": QUESTION}], temperature=0, stream=True
            )
            for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            print()
    finally:
        server.terminate()
