"""Many prompts at once: they share every step, and each is sampled by its own parameters."""

from candle_vllm import GenerationParams, InferenceEngine

prompts = [f"{n} times 2 is" for n in range(8)]
params = [GenerationParams(max_tokens=8, temperature=0.1 * n, seed=n) for n in range(8)]
with InferenceEngine.builder().model_path("smollm2").max_batch_size(8).build() as engine:
    for prompt, output in zip(prompts, engine.generate(prompts, params), strict=True):
        print(repr(prompt + output.text))
