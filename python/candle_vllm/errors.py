"""Every exception that candle-vllm raises on purpose.

    CandleVllmError
    |- ModelLoadError           the model is missing, broken or of a kind that is not supported
    |- TokenizationError        text could not be turned into tokens or back
    |- GenerationError          a request failed while it ran, or was refused for its content
    |  `- EngineFailedError     the engine has failed, or was closed, and takes no request
    |- DeviceError              the device is not there or cannot do this
    |- ConfigError              a setting or parameter is out of range (also a ValueError)
    |- McpConnectionError       an MCP server cannot be reached or does not speak the protocol
    |- McpToolExecutionError    an MCP tool failed
    |- RequestCancelledError    the request was cancelled, or its engine was closed under it
    |- QueueFullError           the waiting queue is full: try again later
    |- RequestTimeoutError      waiting took too long (also a TimeoutError)
    |  `- QueueTimeoutError     a request waited for its model longer than allowed, and was given up
    |- ModelNotFoundError       no model of this name is served
    `- SwitchUnderWayError      another model is being loaded already

Messages say what was wrong with which value and what to do. The native module raises these same classes.
"""

from collections.abc import Sequence
from typing import Self

__all__ = [
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
]


class CandleVllmError(Exception):
    """Root of the tree: catches everything that candle-vllm raises on purpose."""


class ModelLoadError(CandleVllmError):
    """The model is missing, broken or of a kind that is not supported."""

    retry_after: int | None = None
    """Seconds after which loading it is tried again, where that is known."""


class TokenizationError(CandleVllmError):
    """Text could not be turned into tokens, or tokens into text."""


class GenerationError(CandleVllmError):
    """A request failed while it ran, or was refused for its content."""


class EngineFailedError(GenerationError):
    """The engine has failed, or was closed: no request runs any more."""


class DeviceError(CandleVllmError):
    """The device is not there or cannot do what was asked."""


class ConfigError(CandleVllmError, ValueError):
    """A setting or parameter is out of range; the message names the field, what it must be and what it was.

    `field` is the name of a field of `EngineConfig` or `GenerationParams` or of an argument (`prompt`), None where no
    single one is to blame; `value` what it was; `expected` what it may be, completing "must be ...". A message about
    a field begins with the field's name.
    """

    def __init__(
        self, message: str, *, field: str | None = None, value: object = None, expected: str | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.expected = expected

    def named(self, name: str) -> str:
        """The message for someone who knows the field by another name: a flag, or a field of a request."""
        message = str(self)
        return message if self.field is None else name + message.removeprefix(self.field)


class McpConnectionError(CandleVllmError):
    """An MCP server cannot be reached or does not speak the protocol."""


class McpToolExecutionError(CandleVllmError):
    """An MCP tool failed."""


class RequestCancelledError(CandleVllmError):
    """The request was cancelled, or its engine was closed while it ran."""


class QueueFullError(CandleVllmError):
    """The waiting queue is full; the request was not accepted. `retry_after`: seconds after which to try again."""

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestTimeoutError(CandleVllmError, TimeoutError):
    """Waiting took longer than allowed."""


class QueueTimeoutError(RequestTimeoutError):
    """A request waited for its model longer than allowed. `retry_after`: seconds after which to try again."""

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelNotFoundError(CandleVllmError):
    """No model of this name is served; the message names those that are."""

    @classmethod
    def among(cls, name: str, served: Sequence[str]) -> Self:
        """The error for this name where these are served."""
        shown = ", ".join(served[:20]) + (f" and {len(served) - 20} more" if len(served) > 20 else "")
        return cls(f"The model '{name[:200]}' does not exist. Served here: {shown}.")


class SwitchUnderWayError(CandleVllmError):
    """Another model is being loaded; try again when it is there."""
