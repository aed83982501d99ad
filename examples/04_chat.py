"""OpenAI's Chat Completions without a server: the adapter is the same code that answers HTTP."""

from candle_vllm import InferenceEngine
from candle_vllm.openai import OpenAIAdapter

with InferenceEngine.builder().model_path("smollm2").build() as engine:
    adapter = OpenAIAdapter(engine)
    question = {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
    reply = adapter.chat_completion({"messages": [question], "temperature": 0})
    print(reply.choices[0].message.content)
    print(reply.usage)
