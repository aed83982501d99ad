"""The default model through the Python API, against reference data: greedy text, many at once."""

import asyncio
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import GenerationParams, InferenceEngine


@pytest.fixture(scope="module")
def reference(goldens: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((goldens / "smollm2" / "reference.json").read_text(encoding="utf-8"))
    return loaded


def agrees(got: list[int], wanted: list[int], margins: list[float], least: float) -> bool:
    """Whether tokens are the reference's up to a place where its two best are closer than `least`."""
    for token, due, margin in zip(got, wanted, margins, strict=False):
        if token != due:
            return margin < least
    return True


def test_greedy_text(smollm2_engine: InferenceEngine, reference: dict[str, Any]) -> None:
    chats = reference["chats"]
    params = [GenerationParams(max_tokens=len(chat["greedy_token_ids"]), temperature=0) for chat in chats]
    outputs = smollm2_engine.generate([chat["prompt_token_ids"] for chat in chats], params)
    for chat, output in zip(chats, outputs, strict=True):
        # The default arithmetic rounds activations to int8, which moves logits by some tenths.
        assert agrees(output.tokens, chat["greedy_token_ids"], chat["margins"], 0.6), chat["text"]


async def test_many_streams_at_once(smollm2_engine: InferenceEngine, reference: dict[str, Any]) -> None:
    params = [GenerationParams(max_tokens=12, seed=n, temperature=1.0) for n in range(32)]
    prompts = [reference["chats"][n % 8]["prompt_token_ids"] for n in range(32)]

    async def read(n: int) -> list[int]:
        stream = smollm2_engine.generate_stream(prompts[n], params[n])
        return [token async for chunk in stream for token in chunk.token_ids]

    together = await asyncio.gather(*(read(n) for n in range(32)))
    alone = [(await smollm2_engine.generate_async(prompts[n], params[n])).tokens for n in (0, 9, 31)]
    assert alone == [together[0], together[9], together[31]]


def test_text_round_trip(smollm2_engine: InferenceEngine) -> None:
    text = "Naïve café — 東京 🚀\n\tdef f(x): return x**2 <|im_start|>"
    ids = smollm2_engine.tokenize(text)
    assert smollm2_engine.detokenize(ids, skip_special_tokens=False) == text
    assert smollm2_engine.model_info.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert smollm2_engine.chat_template is not None


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs /proc")
def test_closing_gives_the_memory_back(smollm2_path: Path) -> None:
    code = f"""
        from candle_vllm import GenerationParams, InferenceEngine
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
        builder = InferenceEngine.builder().model_path({str(smollm2_path)!r}).kv_cache_memory(64 << 20)
        for _ in range(3):
            with builder.build() as engine:
                engine.generate([[5], [6]], GenerationParams(max_tokens=2))
                inside = resident()
            print(inside, resident())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        inside, after = map(int, line.split())
        # The packed weights are 90 MB; the interpreter, the library and its allocator keep some 40.
        assert inside - after > 70, done.stdout
