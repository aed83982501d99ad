"""RequestError: a request that is refused for what it asks. Must not know of HTTP."""

from __future__ import annotations

from candle_vllm.errors import CandleVllmError

__all__ = ["RequestError"]


class RequestError(CandleVllmError):
    """What was asked cannot be done; `param` is the field at fault as the client names it, `code` a short reason."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code
