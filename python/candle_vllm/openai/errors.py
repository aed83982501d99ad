"""OpenAI's error envelope: what a refused or failed request looks like to its client.

Maps every error of the engine and of validation to a status, a type and a code.
Must not know of HTTP frameworks.
"""

from __future__ import annotations

import re
from typing import Any

import pydantic

from candle_vllm.errors import (
    CandleVllmError,
    ConfigError,
    EngineFailedError,
    McpConnectionError,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
    SwitchUnderWayError,
    TokenizationError,
)
from candle_vllm.generation import RequestError

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
SERVER_BUSY = "server_busy"


class ApiError(CandleVllmError):
    """A request that is refused, or that failed, in the words of OpenAI's API.

    ``status`` is the HTTP status, ``type``, ``param`` and ``code`` are the envelope's fields,
    ``extra`` more fields of it, ``retry_after`` seconds after which to try again.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        type: str = INVALID_REQUEST,  # noqa: A002 - the envelope's own word
        retry_after: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.type = type
        self.retry_after = retry_after
        self.extra = extra or {}

    def envelope(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, **self.extra}}


def unsupported(param: str, message: str) -> ApiError:
    """A 400 for a parameter that is known but cannot be honoured."""
    return ApiError(message, param=param, code="unsupported_parameter")


def invalid(param: str, message: str) -> ApiError:
    """A 400 for a value that is out of range or contradicts another one."""
    return ApiError(message, param=param, code="invalid_value")


def api_error(error: BaseException) -> ApiError:
    """The envelope of any error; what is not known becomes a 500 that tells nothing of the inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(str(error), param=error.param, code=error.code)
    if isinstance(error, pydantic.ValidationError):
        return validation_error(error)
    if isinstance(error, ModelNotFoundError):
        return ApiError(str(error), param="model", code="model_not_found", status=404)
    if isinstance(error, SwitchUnderWayError):
        return ApiError(str(error), param="model", code="switch_under_way", status=409)
    if (busy := _busy(error)) is not None:
        return busy
    if isinstance(error, ConfigError):
        return ApiError(str(error), param=error.field, code="invalid_value")
    if isinstance(error, TokenizationError):
        return ApiError(str(error), code="invalid_value")
    if isinstance(error, CandleVllmError):
        return ApiError(str(error), code="generation_failed", status=500, type=SERVER_ERROR)
    return ApiError("The server had an error while processing your request.", status=500, type=SERVER_ERROR)


def _busy(error: BaseException) -> ApiError | None:
    """The envelope of what may be gone when the request is sent again."""
    wait: int | None
    if isinstance(error, QueueFullError):
        code, kind, wait = "queue_full", SERVER_BUSY, error.retry_after or 1
    elif isinstance(error, RequestTimeoutError):
        code, kind, wait = "timeout", SERVER_BUSY, getattr(error, "retry_after", None) or 5
    elif isinstance(error, RequestCancelledError):
        code, kind, wait = "request_cancelled", SERVER_ERROR, 1
    elif isinstance(error, ModelLoadError):
        code, kind, wait = "model_load_failed", SERVER_ERROR, error.retry_after
    elif isinstance(error, McpConnectionError):
        code, kind, wait = "mcp_server_unavailable", SERVER_ERROR, 5
    elif isinstance(error, EngineFailedError):
        code, kind, wait = "engine_failed", SERVER_ERROR, None
    else:
        return None
    extra = {"queued": isinstance(error, RequestTimeoutError)} if kind is SERVER_BUSY else None
    return ApiError(str(error), code=code, status=503, type=kind, retry_after=wait, extra=extra)


_MOST_PROBLEMS = 100
"""Of one request; lists stop at their first one, so more of them are members of objects."""
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "string_too_long": "string_above_max_length",
    "too_short": "empty_array",
    "too_long": "array_above_max_length",
    "literal_error": "invalid_value",
    "value_error": "invalid_value",
}
_BOUNDS = {
    "greater_than": "below_min_value",
    "greater_than_equal": "below_min_value",
    "less_than": "above_max_value",
    "less_than_equal": "above_max_value",
}
# Pydantic names the branch of a union in a location: 'str', 'list[int]', 'function-after[...]'.
_BRANCH = re.compile(
    r"^(str|int|float|bool|dict|list|none|nullable|literal|tagged-union|function-\w+|constrained-\w+)(\[.*)?$"
)


def validation_error(error: pydantic.ValidationError, *, inputs: bool = True) -> ApiError:
    """The envelope of the first thing that a typed request found wrong.

    With `inputs` it tells a short value that was wrong; for that pydantic makes objects of all that was.
    """
    if error.error_count() > _MOST_PROBLEMS:
        # To tell them apart would cost more than to find them.
        return ApiError("The body of your request holds too many members that are unknown or invalid.")
    problems = error.errors(include_url=False, include_input=inputs)
    # A union reports each branch that failed; the one that got deepest is the one that was meant.
    first = max(
        problems, key=lambda problem: (_path(problem["loc"])[0] == _path(problems[0]["loc"])[0], len(problem["loc"]))
    )
    param = _param(first["loc"])
    kind = first["type"]
    if kind == "json_invalid":
        return ApiError(f"We could not parse the JSON body of your request: {first['msg']}")
    if kind == "missing":
        return ApiError(f"Missing required parameter: '{param}'.", param=param, code=_CODES[kind])
    if kind == "extra_forbidden":
        return ApiError(f"Unrecognized request argument supplied: {param}", param=param, code=_CODES[kind])
    if kind in ("model_type", "dict_type") and not param:
        return ApiError("The body of your request must be a JSON object.", code="invalid_type")
    if kind in _BOUNDS:
        number = "integer" if all(isinstance(bound, int) for bound in first["ctx"].values()) else "decimal"
        code = f"{number}_{_BOUNDS[kind]}"
    else:
        code = _CODES.get(kind, "invalid_type")
    given = first.get("input")
    got = f"; got {given!r}" if isinstance(given, int | float) or (isinstance(given, str) and len(given) < 80) else ""
    return ApiError(f"Invalid value for '{param}': {_lower(first['msg'])}{got}.", param=param or None, code=code)


def _path(location: tuple[int | str, ...]) -> list[int | str]:
    return [part for part in location if isinstance(part, int) or not _BRANCH.match(part)] or [""]


def _param(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in _path(location):
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
