"""Schemas of arguments: references, checks."""

from typing import Any

import pytest

from candle_vllm.mcp.schemas import checker, fitted, resolved

POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}


def test_local_references_are_written_out() -> None:
    schema = {
        "type": "object",
        "properties": {
            "at": {"$ref": "#/$defs/point", "description": "Where"},
            "all": {"items": {"$ref": "#/$defs/point"}},
        },
        "$defs": {"point": POINT},
    }
    assert resolved(schema) == {
        "type": "object",
        "properties": {"at": {**POINT, "description": "Where"}, "all": {"items": POINT}},
    }


def test_a_reference_to_itself_stays_with_its_definition() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    made = resolved({"properties": {"head": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}})
    assert made["$defs"]["node"] == node
    assert made["properties"]["head"]["properties"]["next"] == {"$ref": "#/$defs/node"}
    check = checker(made)
    assert check({"head": {"next": {"next": {}}}}) is None
    assert check({"head": {"next": {"next": 3}}}) == "head.next.next: 3 is not of type 'object'"


@pytest.mark.parametrize("reference", ["https://example.com/x.json", "file:///etc/passwd", "x.json#/a", 3])
def test_what_is_not_local_allows_everything(reference: Any) -> None:
    made = resolved({"properties": {"a": {"$ref": reference}}})
    check = checker(made)
    assert check({"a": object()}) is None


@pytest.mark.parametrize("reference", ["#/$defs/absent", "#/properties/0/x", "#anchor", "#/~9"])
def test_a_reference_to_nothing_allows_everything(reference: str) -> None:
    assert checker(resolved({"properties": {"a": {"$ref": reference}}}))({"a": 1}) is None


def test_a_schema_that_would_blow_up_is_left_as_it_is() -> None:
    # Each definition holds the next one twice: 2^30 copies if written out.
    levels = {
        f"d{at}": {"properties": {"a": {"$ref": f"#/$defs/d{at + 1}"}, "b": {"$ref": f"#/$defs/d{at + 1}"}}}
        for at in range(30)
    }
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": {**levels, "d30": POINT}}
    assert resolved(schema) == schema


def test_nesting_without_end_is_borne() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"properties": {"a": deep}}
    assert isinstance(resolved(deep), dict)


def test_arguments_are_checked_with_their_place() -> None:
    check = checker(
        {"type": "object", "properties": {"points": {"type": "array", "items": POINT}}, "required": ["points"]}
    )
    assert check({"points": [{"x": 1}]}) is None
    assert check({}) == "'points' is a required property"
    assert check({"points": [{"x": 1}, {"x": "one"}]}) == "points[1].x: 'one' is not of type 'number'"
    assert (check({"points": [{}] * 5}) or "").endswith("(and 2 more)")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"properties": {"a": {"multipleOf": 0}}},
        {"properties": 3},
    ],
)
def test_a_broken_schema_checks_nothing(schema: dict[str, Any]) -> None:
    assert checker(schema)({"a": "a"}) is None
    assert checker(schema)({"a": 1}) is None


def test_patterns_of_other_languages_do_no_harm() -> None:
    check = checker({"properties": {"a": {"type": "string", "pattern": "(?<name>a)"}}})
    assert (check({"a": "b"}), check({"a": 1})) == (None, "a: 1 is not of type 'string'")


def test_nulls_that_do_not_fit_are_left_out() -> None:
    properties = {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": ["string", "null"]}}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": ["a"]}
    check = checker(schema)
    assert fitted({"a": "x", "b": None}, schema, check) == ({"a": "x"}, None)
    assert fitted({"a": "x", "c": None}, schema, check) == ({"a": "x", "c": None}, None)
    assert fitted({"a": None}, schema, check) == ({"a": None}, "a: None is not of type 'string'")
    broken = {**schema, "required": True}
    assert fitted({"b": None}, broken, checker(broken)) == ({"b": None}, None)
    assert fitted({"a": 1, "b": None}, schema, check)[1] is not None


def test_an_anchor_stays_with_what_it_names() -> None:
    definitions = {"point": {"$anchor": "point", **POINT}}
    made = resolved({"properties": {"at": {"$ref": "#point"}}, "$defs": definitions})
    assert made["$defs"] == definitions
    assert checker(made)({"at": {}}) == "at: 'x' is a required property"


def test_checks_that_would_never_end_do() -> None:
    pattern = checker(
        {"properties": {"x": {"pattern": "^(a+)+$"}}, "patternProperties": {"^(a+)+$": {"type": "string"}}}
    )
    assert pattern({"x": "a" * 60 + "!", "a" * 60 + "!": 1}) is None
    both = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    doubling = checker({"$ref": "#/$defs/node", "$defs": {"node": {"anyOf": [both, {**both, "title": "again"}]}}})
    deep: Any = 3
    for _ in range(40):
        deep = {"next": deep}
    assert doubling(deep) is None
    assert doubling({"next": {"next": 3}}) is not None
    unique = checker({"type": "array", "uniqueItems": True})
    assert unique([{"a": at} for at in range(100_000)]) is None


def test_what_is_called_like_a_keyword_is_checked() -> None:
    check = checker({"properties": {"pattern": {"type": "string"}, "uniqueItems": {"type": "integer"}}})
    assert check({"pattern": 3, "uniqueItems": "x"}) == (
        "pattern: 3 is not of type 'string'; uniqueItems: 'x' is not of type 'integer'"
    )
