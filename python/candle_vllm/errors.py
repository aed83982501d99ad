"""Every exception that candle-vllm raises on purpose.

    CandleVllmError
    |- ModelLoadError           the model is missing, broken or of a kind that is not supported
    |- TokenizationError        text could not be turned into tokens or back
    |- GenerationError          a request failed while it ran, or was refused for its content
    |- DeviceError              the device is not there or cannot do this
    |- ConfigError              a setting or parameter is out of range (also a ValueError)
    |- McpConnectionError       an MCP server cannot be reached or does not speak the protocol
    |- McpToolExecutionError    an MCP tool failed
    |- RequestCancelledError    the request was cancelled, or its engine was closed under it
    |- QueueFullError           the waiting queue is full: try again later
    `- RequestTimeoutError      waiting took too long (also a TimeoutError)

Messages say what was wrong with which value and what to do. The native module raises these same classes.
"""

__all__ = [
    "CandleVllmError",
    "ConfigError",
    "DeviceError",
    "GenerationError",
    "McpConnectionError",
    "McpToolExecutionError",
    "ModelLoadError",
    "QueueFullError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "TokenizationError",
]


class CandleVllmError(Exception):
    """Root of the tree: catches everything that candle-vllm raises on purpose."""


class ModelLoadError(CandleVllmError):
    """The model is missing, broken or of a kind that is not supported."""


class TokenizationError(CandleVllmError):
    """Text could not be turned into tokens, or tokens into text."""


class GenerationError(CandleVllmError):
    """A request failed while it ran, or was refused for its content."""


class DeviceError(CandleVllmError):
    """The device is not there or cannot do what was asked."""


class ConfigError(CandleVllmError, ValueError):
    """A setting or parameter is out of range; the message names the field and the range."""


class McpConnectionError(CandleVllmError):
    """An MCP server cannot be reached or does not speak the protocol."""


class McpToolExecutionError(CandleVllmError):
    """An MCP tool failed."""


class RequestCancelledError(CandleVllmError):
    """The request was cancelled, or its engine was closed while it ran."""


class QueueFullError(CandleVllmError):
    """The waiting queue is full; the request was not accepted."""


class RequestTimeoutError(CandleVllmError, TimeoutError):
    """Waiting took longer than allowed."""
