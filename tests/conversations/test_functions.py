"""Python callables as tools."""

import asyncio
import functools
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from candle_vllm.conversations.functions import FunctionTool
from candle_vllm.errors import ConfigError


class Unit(Enum):
    C = "celsius"
    F = "fahrenheit"


class Place(BaseModel):
    city: str
    title: str = ""


def weather(
    place: Place, unit: Unit = Unit.C, days: Annotated[int, Field(ge=1, le=7)] = 1, *, note: str | None = None
) -> str:
    """Tells the weather.

    From the window.

    Args:
        place: Where, which may
            take two lines.
        days (int): How many.
        note: Anything else: even this.

    Returns:
        A text.
    """
    return f"{place.city} {unit.value} {days} {note}"


async def run(tool: FunctionTool, **arguments: Any) -> str:
    given, wrong = tool.fit(arguments)
    assert wrong is None
    return (await tool.call(given, None)).text


async def test_hints_and_docstring_make_the_schema() -> None:
    tool = FunctionTool(weather)
    assert (tool.name, tool.description) == ("weather", "Tells the weather.\n\nFrom the window.")
    properties = tool.parameters["properties"]
    assert properties["place"] == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "title": {"type": "string", "default": ""}},
        "required": ["city"],
        "description": "Where, which may take two lines.",
    }
    assert properties["days"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 7,
        "default": 1,
        "description": "How many.",
    }
    assert properties["unit"]["enum"] == ["celsius", "fahrenheit"]
    assert properties["note"]["description"] == "Anything else: even this."
    assert (tool.parameters["required"], tool.parameters["additionalProperties"]) == (["place"], False)
    assert await run(tool, place={"city": "Oslo"}, unit="fahrenheit") == "Oslo fahrenheit 1 None"
    assert await run(tool, place={"city": "Oslo"}, days=None) == "Oslo celsius 1 None"
    assert tool.fit({"place": {"city": "Oslo"}, "days": 9})[1] == "days: Input should be less than or equal to 7"
    assert tool.fit({"place": {}})[1] == "place.city: Field required"


def test_sphinx_docstrings_are_read_too() -> None:
    def look(where: str, how: Literal["far", "near"]) -> None:
        """Looks.

        :param where: The direction.
        :param str how: The manner.
        """

    tool = FunctionTool(look)
    assert tool.description == "Looks."
    assert tool.parameters["properties"]["where"]["description"] == "The direction."
    assert tool.parameters["properties"]["how"] == {
        "description": "The manner.",
        "enum": ["far", "near"],
        "type": "string",
    }


async def test_parameters_may_have_any_name() -> None:
    def odd(copy: int, json: int, _x: int = 3, model_fields: int = 4) -> list[int]:
        return [copy, json, _x, model_fields]

    assert await run(FunctionTool(odd), copy=1, json=2) == "[1,2,3,4]"


async def test_results_are_shown() -> None:
    @dataclass
    class Point:
        x: int

    values: list[tuple[Any, str]] = [
        ("text", "text"),
        ("", "(The tool returned nothing.)"),
        (None, "null"),
        ({"a": [Point(1)]}, '{"a":[{"x":1}]}'),
        (Place(city="Oslo"), '{"city":"Oslo","title":""}'),
        (object, "<class 'object'>"),
    ]
    for value, text in values:

        def give(value: Any = value) -> Any:
            return value

        assert text in await run(FunctionTool(give))


async def test_plain_functions_do_not_hold_the_loop() -> None:
    import time

    def block() -> str:
        time.sleep(0.3)
        return "done"

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert await run(FunctionTool(block)) == "done"
    ticking.cancel()
    assert ticks > 5


async def test_timeouts_of_its_own_and_of_the_tool() -> None:
    async def late() -> None:
        raise TimeoutError("the oven")

    async def never() -> None:
        await asyncio.sleep(60)

    assert (await FunctionTool(late).call({}, 1.0)).text == "Error: TimeoutError: the oven"
    assert (await FunctionTool(never).call({}, 0.1)).outcome == "timeout"


async def test_objects_that_can_be_called() -> None:
    class counter:  # noqa: N801 - its name is the tool's
        """Counts."""

        def __init__(self) -> None:
            self.count = 0

        def __call__(self, by: int) -> int:
            self.count += by
            return self.count

        def method(self, by: int) -> int:
            """Counts too."""
            return self(by)

    count = counter()
    assert await run(FunctionTool(count), by=2) == "2"
    method = FunctionTool(count.method)
    assert (method.name, method.description) == ("method", "Counts too.")
    assert await run(method, by=2) == "4"


def test_what_no_model_can_call_is_refused() -> None:
    def many(*numbers: int) -> None: ...

    def only(number: int, /) -> None: ...

    def strange(thing: asyncio.Task[int]) -> None: ...

    for function, words in (
        (many, "its parameter 'numbers' is not"),
        (only, "its parameter 'number' is not"),
        (strange, "types that JSON has"),
        (lambda: None, "named with"),
    ):
        with pytest.raises(ConfigError, match=words):
            FunctionTool(function)
    assert FunctionTool(functools.partial(weather, Place(city="Oslo"))).name == "partial"
