"""The answer piece by piece, as it is computed."""

from candle_vllm import GenerationParams, InferenceEngine

with InferenceEngine.builder().model_path("smollm2").build() as engine:
    for chunk in engine.stream("Once upon a time", GenerationParams(max_tokens=40, seed=1)):
        print(chunk.text, end="", flush=True)
    print()
