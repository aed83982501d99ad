"""A language model inside a Python program: a Rust engine, an OpenAI adapter and an OpenAI-compatible server.

    from candle_vllm import GenerationParams, InferenceEngine

    with InferenceEngine.builder().model_path("smollm2").build() as engine:
        print(engine.generate("The sea is", GenerationParams(max_tokens=20)).text)

Names load their modules when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from candle_vllm.config import EngineConfig as EngineConfig
    from candle_vllm.conversations import ConversationOptions as ConversationOptions
    from candle_vllm.conversations import ConversationResult as ConversationResult
    from candle_vllm.conversations import ResponsesSession as ResponsesSession
    from candle_vllm.engine import EngineBuilder as EngineBuilder
    from candle_vllm.engine import InferenceEngine as InferenceEngine
    from candle_vllm.engine import RequestHandle as RequestHandle
    from candle_vllm.engine import inspect_model as inspect_model
    from candle_vllm.engine import quantize_model as quantize_model
    from candle_vllm.errors import CandleVllmError as CandleVllmError
    from candle_vllm.errors import ConfigError as ConfigError
    from candle_vllm.errors import DeviceError as DeviceError
    from candle_vllm.errors import EngineFailedError as EngineFailedError
    from candle_vllm.errors import GenerationError as GenerationError
    from candle_vllm.errors import McpConnectionError as McpConnectionError
    from candle_vllm.errors import McpToolExecutionError as McpToolExecutionError
    from candle_vllm.errors import ModelLoadError as ModelLoadError
    from candle_vllm.errors import ModelNotFoundError as ModelNotFoundError
    from candle_vllm.errors import QueueFullError as QueueFullError
    from candle_vllm.errors import QueueTimeoutError as QueueTimeoutError
    from candle_vllm.errors import RequestCancelledError as RequestCancelledError
    from candle_vllm.errors import RequestTimeoutError as RequestTimeoutError
    from candle_vllm.errors import SwitchUnderWayError as SwitchUnderWayError
    from candle_vllm.errors import TokenizationError as TokenizationError
    from candle_vllm.mcp import McpClient as McpClient
    from candle_vllm.params import GenerationParams as GenerationParams
    from candle_vllm.records import CachedPrefix as CachedPrefix
    from candle_vllm.records import EngineStats as EngineStats
    from candle_vllm.records import FinishReason as FinishReason
    from candle_vllm.records import GenerationChunk as GenerationChunk
    from candle_vllm.records import GenerationOutput as GenerationOutput
    from candle_vllm.records import GenerationStats as GenerationStats
    from candle_vllm.records import ModelInfo as ModelInfo
    from candle_vllm.records import ModelReport as ModelReport
    from candle_vllm.records import StepReport as StepReport
    from candle_vllm.records import TokenLogprob as TokenLogprob
    from candle_vllm.structured import StructuredOutput as StructuredOutput
    from candle_vllm.structured import Trigger as Trigger

    __version__: str

_HOMES = {
    "candle_vllm.config": ("EngineConfig",),
    "candle_vllm.conversations": ("ConversationOptions", "ConversationResult", "ResponsesSession"),
    "candle_vllm.engine": ("EngineBuilder", "InferenceEngine", "RequestHandle", "inspect_model", "quantize_model"),
    "candle_vllm.errors": (
        "CandleVllmError",
        "ConfigError",
        "DeviceError",
        "EngineFailedError",
        "GenerationError",
        "McpConnectionError",
        "McpToolExecutionError",
        "ModelLoadError",
        "ModelNotFoundError",
        "QueueFullError",
        "QueueTimeoutError",
        "RequestCancelledError",
        "RequestTimeoutError",
        "SwitchUnderWayError",
        "TokenizationError",
    ),
    "candle_vllm.mcp": ("McpClient",),
    "candle_vllm.params": ("GenerationParams",),
    "candle_vllm.records": (
        "CachedPrefix",
        "EngineStats",
        "FinishReason",
        "GenerationChunk",
        "GenerationOutput",
        "GenerationStats",
        "ModelInfo",
        "ModelReport",
        "StepReport",
        "TokenLogprob",
    ),
    "candle_vllm.structured": ("StructuredOutput", "Trigger"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME_OF), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("candle_vllm._native").__version__
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
