"""Python callables as tools: the schema from type hints, the descriptions from the docstring. Knows no model."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_type_hints

import pydantic
import pydantic_core
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from candle_vllm.checks import refuse
from candle_vllm.mcp.names import is_plain
from candle_vllm.mcp.results import ToolResult, clipped
from candle_vllm.mcp.schemas import fitted, resolved

__all__ = ["FunctionTool"]

_SECONDS = 60.0
_MOST_CHARACTERS = 65_536
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$|^:\w", re.MULTILINE)
_GOOGLE = re.compile(r"^ {2,}\*{0,2}(\w+)(?: *\([^)]*\))?: *(.*(?:\n {5,}.*)*)", re.MULTILINE)
_SPHINX = re.compile(r"^:param(?: [^:]+)? (\w+): *(.*(?:\n +.*)*)", re.MULTILINE)


class FunctionTool:
    """A callable, plain or asynchronous, as a tool. A plain one runs in a thread, which no timeout can end.

    What it returns is shown as it is where it is text, otherwise as JSON; what it raises is told to the model.
    Raises ConfigError for what cannot be called by name.
    """

    server = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = self.own_name = getattr(function, "__name__", type(function).__name__)
        if not is_plain(self.name):
            refuse("function", self.name, "named with at most 64 letters, digits or any of _-")
        text = inspect.getdoc(function) or ""
        section = _SECTION.search(text)
        self.description = (text[: section.start()] if section else text).strip()
        self._names, self._model = _model(function, self.name, _described(text))
        self.parameters: Mapping[str, Any] = resolved(
            _untitled(self._model.model_json_schema(schema_generator=_Schema))
        )

    def fit(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """Arguments as the function takes them, and what is wrong with them; None = nothing."""
        return fitted(dict(arguments), self.parameters, self._wrong)

    def _wrong(self, arguments: Any) -> str | None:
        try:
            self._model.model_validate(arguments)
        except pydantic.ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)
            return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in wrong[:3])
        return None

    async def call(self, arguments: Mapping[str, Any], timeout: float | None) -> ToolResult:  # noqa: ASYNC109
        """The result of a call with arguments that fit."""
        limit = _SECONDS if timeout is None else timeout
        checked = self._model.model_validate(arguments)
        given = {
            name: getattr(checked, field) for field, name in self._names.items() if field in checked.model_fields_set
        }
        try:
            async with asyncio.timeout(limit) as scope:
                value = await self._value(given)
        except TimeoutError as error:
            if scope.expired():
                return ToolResult.failed("timeout", f"{self.name!r} gave no result within {limit:g} s")
            return ToolResult.failed("tool_error", f"TimeoutError: {error}")
        except Exception as error:
            return ToolResult.failed("tool_error", f"{type(error).__name__}: {error}")
        return _result(value)

    async def _value(self, given: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(**given)
        value = await asyncio.to_thread(self.function, **given)
        return await value if isinstance(value, Awaitable) else value


class _Schema(GenerateJsonSchema):
    """Leaves out defaults that JSON has not; the function keeps them."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"non-serializable-default"}  # noqa: RUF012 - the base's own form


def _result(value: Any) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    try:
        text = value if isinstance(value, str) else pydantic_core.to_json(value, fallback=str).decode()
    except (ValueError, TypeError) as error:
        return ToolResult.failed("invalid_result", f"the result cannot be shown: {error}")
    return ToolResult(text=clipped(text, _MOST_CHARACTERS) or "(The tool returned nothing.)")


def _model(
    function: Callable[..., Any], name: str, told: Mapping[str, str]
) -> tuple[dict[str, str], type[pydantic.BaseModel]]:
    """A model of the arguments, and which parameter each of its fields is.

    Fields have names of their own, lest a parameter called `copy` or `_x` clash with the model's.
    """
    routine: Any = function.func if isinstance(function, functools.partial) else function
    hints = get_type_hints(routine if inspect.isroutine(routine) else type(routine).__call__, include_extras=True)
    names: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for at, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            refuse("function", name, f"callable by names alone, which its parameter {parameter.name!r} is not")
        default = ... if parameter.default is parameter.empty else parameter.default
        names[f"p{at}"] = parameter.name
        fields[f"p{at}"] = (
            hints.get(parameter.name, Any),
            pydantic.Field(default, alias=parameter.name, description=told.get(parameter.name)),
        )
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    try:
        return names, pydantic.create_model("Arguments", __config__=config, **fields)
    except pydantic.errors.PydanticUserError as error:
        refuse("function", name, f"annotated with types that JSON has: {error.message}")


def _described(text: str) -> dict[str, str]:
    """Parameter to what the docstring says of it, in Google's or Sphinx's manner."""
    found = {name: _line(said) for name, said in _SPHINX.findall(text)}
    if (start := re.search(r"^(Args|Arguments|Parameters):\s*$", text, re.MULTILINE)) is not None:
        body = text[start.end() :]
        end = re.search(r"^\S", body.lstrip("\n"), re.MULTILINE)
        body = body.lstrip("\n")[: end.start()] if end else body
        found |= {name: _line(said) for name, said in _GOOGLE.findall(body)}
    return found


def _line(text: str) -> str:
    return " ".join(text.split())


def _untitled(node: Any) -> Any:
    """The schema without the titles that pydantic makes up."""
    if isinstance(node, list):
        return [_untitled(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: _untitled(value) for key, value in node.items() if key not in ("title", "properties", "$defs")}
    named = {key: node[key] for key in ("properties", "$defs") if key in node}
    # What stands under these are names, of which one may well be "title".
    return made | {key: {name: _untitled(each) for name, each in value.items()} for key, value in named.items()}
