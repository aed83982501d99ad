"""One prompt, one answer. The small default model is fetched at the first run."""

from candle_vllm import GenerationParams, InferenceEngine

with InferenceEngine.builder().model_path("smollm2").build() as engine:
    output = engine.generate("The capital of France is", GenerationParams(max_tokens=12, temperature=0))
    print(output.text)
    print(output.finish_reason, f"{output.stats.tokens_per_second:.0f} tokens/s")
