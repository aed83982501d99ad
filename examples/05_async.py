"""Inside an asyncio program: concurrent streams, and a cancelled task that gives its memory back at once."""

import asyncio

from candle_vllm import GenerationParams, InferenceEngine


async def tell(engine: InferenceEngine, start: str) -> str:
    text = start
    async for chunk in engine.generate_stream(start, GenerationParams(max_tokens=24, seed=3)):
        text += chunk.text
    return text


async def main() -> None:
    with InferenceEngine.builder().model_path("smollm2").build() as engine:
        for text in await asyncio.gather(*(tell(engine, s) for s in ("The sea", "The moon", "The cat"))):
            print(repr(text))
        task = asyncio.create_task(engine.generate_async("Forever", GenerationParams(max_tokens=2000, ignore_eos=True)))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait([task])
        stats = engine.stats()
        print(f"{stats.kv_blocks_free} of {stats.kv_blocks_total} blocks free")


asyncio.run(main())
