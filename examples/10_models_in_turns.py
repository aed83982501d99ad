"""Two models that take turns in memory, behind one adapter: requests wait for theirs, and hear how."""

import asyncio

from candle_vllm import EngineConfig
from candle_vllm.models import Catalog, CatalogEntry, EngineLoader, ModelManager
from candle_vllm.openai import OpenAIAdapter


async def ask(adapter: OpenAIAdapter, model: str) -> None:
    """One streamed chat; what it waits for comes as chunks without text."""
    request = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12}
    text = ""
    async for chunk in adapter.achat_completion_stream(request):
        if (wait := chunk.candle_metadata) is not None:
            print(f"{model}: {wait.status}, position {wait.position}")
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    print(f"{model}: {text}")


async def main() -> None:
    # The same weights in two ways of computing; models.yaml (see models.yaml here) would name different ones.
    fast = CatalogEntry(name="fast", config=EngineConfig(model_path="smollm2"))
    exact = CatalogEntry(name="exact", config=EngineConfig(model_path="smollm2", dtype="f32"))
    loader = EngineLoader()
    models = ModelManager(Catalog([fast, exact]), loader.load, fetch=loader.fetch)
    try:
        await asyncio.gather(*(ask(OpenAIAdapter(models), name) for name in ("fast", "exact", "fast")))
        print(models.status())
    finally:
        await models.aclose()


asyncio.run(main())
