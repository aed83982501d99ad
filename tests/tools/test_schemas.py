"""What schemas say of tools, whatever they are."""

from typing import Any

import pytest

from candle_vllm.tools.schemas import ANY, Tool, Tools, kinds_of

ROOT: dict[str, Any] = {
    "$defs": {
        "text": {"type": "string"},
        "loop": {"$ref": "#/$defs/loop"},
        "a/b": {"type": "integer"},
        "node": {"properties": {"next": {"$ref": "#/$defs/node"}}},
    }
}


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        (
            {"enum": ["a", 1, 2.5, None, True, [], {}]},
            {"string", "integer", "number", "null", "boolean", "array", "object"},
        ),
        ({"const": "x"}, {"string"}),
        ({"$ref": "#/$defs/text"}, {"string"}),
        ({"$ref": "#/$defs/a~1b"}, {"integer"}),
        ({"$ref": "#/$defs/node"}, {"object"}),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/a~1b"}]}, {"string", "integer"}),
        ({"oneOf": [{"type": "string"}, {}]}, ANY),
        ({"allOf": [{"type": "object"}, {"description": "x"}]}, {"object"}),
        ({"properties": {}}, {"object"}),
        ({"$ref": "#/$defs/loop"}, ANY),
        ({"$ref": "#/nowhere/at/all"}, ANY),
        ({"$ref": "http://elsewhere/schema"}, ANY),
        ({}, ANY),
        (None, ANY),
        (True, ANY),
        ([], ANY),
        ({"type": 3}, ANY),
        ({"anyOf": "no list"}, ANY),
    ],
)
def test_kinds(schema: Any, kinds: set[str]) -> None:
    assert kinds_of(schema, ROOT) == kinds


@pytest.mark.parametrize(
    "parameters", [None, [], True, 3, "x", {}, {"properties": None}, {"properties": [], "required": "a"}]
)
def test_odd_parameters_say_nothing(parameters: Any) -> None:
    tools = Tools([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    tool = tools.get("f")
    assert tool is not None
    assert (dict(tool.properties), tool.required) == ({}, frozenset())
    assert tools.kinds("f", "x") == ANY
    assert tools.parameter_at("f", 0) is None


@pytest.mark.parametrize(
    "form", [{}, {"function": None}, {"function": {}}, {"type": "web_search"}, {"function": {"name": 3}}]
)
def test_what_is_no_function_is_left_out(form: dict[str, Any]) -> None:
    assert len(Tools([form])) == 0


def test_tools_are_found_by_name_in_either_form() -> None:
    schema = {"properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": "null"}}}
    for form in (
        {"type": "function", "function": {"name": "f", "parameters": schema}},
        {"name": "f", "parameters": schema},
    ):
        tools = Tools([form])
        assert "f" in tools
        assert "g" not in tools
        assert tools.kinds("f", "a") == {"string"}
        assert tools.kinds("f", "b") == {"null"}
        assert tools.kinds("g", "a") == ANY
        assert [tools.parameter_at("f", at) for at in range(3)] == ["a", "b", None]
    assert [tool.name for tool in Tools(tools)] == ["f"]


def test_a_parameters_schema_takes_its_definitions_along() -> None:
    tool = Tool("f", {"properties": {"a": {"$ref": "#/$defs/t"}, "b": True}, "$defs": {"t": {"type": "null"}}})
    assert tool.schema_of("a") == {"$defs": {"t": {"type": "null"}}, "$ref": "#/$defs/t"}
    assert tool.schema_of("b") is True
    assert tool.schema_of("c") is None


def test_whether_other_parameters_are_allowed() -> None:
    assert Tool("f", {}).open
    assert not Tool("f", {"additionalProperties": False}).open
    assert not Tool("f", {"properties": {"a": {}}}).open
    assert Tool("f", {"properties": {"a": {}}, "additionalProperties": {"type": "string"}}).open
