"""The engine's Python face: one loaded model that answers many requests at once.

Alone imports `candle_vllm._native`; knows nothing of chats, tools or HTTP.
"""

from candle_vllm.engine.builder import EngineBuilder
from candle_vllm.engine.handle import RequestHandle
from candle_vllm.engine.inference import InferenceEngine, Prompt
from candle_vllm.engine.inspect import inspect_model
from candle_vllm.engine.protocol import Engine, Request
from candle_vllm.engine.quantize import quantize_model

__all__ = [
    "Engine",
    "EngineBuilder",
    "InferenceEngine",
    "Prompt",
    "Request",
    "RequestHandle",
    "inspect_model",
    "quantize_model",
]
