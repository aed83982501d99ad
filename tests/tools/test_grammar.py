"""Grammars: what they let a model write, its own parser reads, for every format over random schemas."""

import json
import random
from typing import Any

import jsonschema
import pytest

from candle_vllm.errors import ConfigError
from candle_vllm.tools import FORMATS, Format, Tool, ToolCall, find, json_answer, parse

from .grammar_walk import Walker

FORMS = [form for form in FORMATS if form.name != "passthrough"]
WORDS = ["alpha", "beta", "city", "days", "limit", "name", "query", "unit", "x_1"]
STRINGS = ["", "Paris", 'say "hi"', "it's", "a, b) c]", "naïve 東京", "two\nlines", "true", "3", "<b>{x}</b>", "\\n"]


def schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    kind = rng.choice(["string", "integer", "number", "boolean", "enum", "array", "object"][: 5 if depth > 1 else 7])
    if kind == "enum":
        return {"type": "string", "enum": rng.sample(["red", "dark blue", "it's", "3"], 2)}
    if kind == "array":
        return {"type": "array", "items": schema(rng, depth + 1)}
    if kind == "object":
        return {**parameters(rng, depth + 1), "additionalProperties": False}
    return {"type": kind}


def parameters(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randrange(0, 4))
    required = [name for name in names if rng.random() < 0.6]
    return {"type": "object", "properties": {name: schema(rng, depth) for name in names}, "required": required}


def instance(rng: random.Random, form: dict[str, Any]) -> Any:
    if "enum" in form:
        return rng.choice(form["enum"])
    match form["type"]:
        case "string":
            return rng.choice(STRINGS)
        case "integer":
            return rng.randrange(-1000, 1000)
        case "number":
            return rng.choice([0, -1.5, 3.25, 1e-7, 12345.5])
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return [instance(rng, form["items"]) for _ in range(rng.randrange(0, 3))]
    names = [name for name in form["properties"] if name in form["required"] or rng.random() < 0.5]
    return {name: instance(rng, form["properties"][name]) for name in names}


def menu(rng: random.Random) -> list[Tool]:
    return [Tool(name, parameters(rng)) for name in rng.sample(["get_weather", "search.web", "now", "add-item"], 2)]


def forms(tools: list[Tool]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": tool.name, "parameters": tool.parameters}} for tool in tools]


def walkers(form: Format) -> list[Walker]:
    """Over a vocabulary without special tokens, and over one where all the format's marks are."""
    return [Walker([]), Walker(form.marks)] if form.marks else [Walker([])]


def ends(form: Format) -> list[str]:
    style = getattr(form, "style", None)
    values = [f"{frame}{style.value_end}{style.line}" for frame in ("", "\n")] if style else []
    quote = getattr(form, "quote", None)
    return [*values, *([quote] if quote else []), '"', "}", "]", ")", "<|end|>"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_what_the_grammar_writes_the_parser_reads(form: Format) -> None:
    rng = random.Random(form.name)
    for walker in walkers(form):
        for _ in range(4):
            tools = menu(rng)
            grammar = form.grammar(tools, "required", parallel=True, special=walker.special)
            assert walker.error(grammar) == ""
            for _ in range(2):
                text = walker.write(grammar, rng, ends(form))
                reply = parse(text, form, forms(tools))
                assert reply.tool_calls, text
                assert reply.content is None, text
                assert not reply.truncated, text
                for call in reply.tool_calls:
                    tool = next(tool for tool in tools if tool.name == call.name)
                    jsonschema.validate(json.loads(call.arguments), dict(tool.parameters))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_what_is_written_is_read_and_accepted(form: Format) -> None:
    rng = random.Random(form.name)
    for walker in walkers(form):
        for _ in range(20):
            tools = menu(rng)
            chosen = rng.choices(tools, k=1 if form.name == "openai" else rng.randrange(1, 4))
            calls = [_ordered(tool, instance(rng, dict(tool.parameters))) for tool in chosen]
            text = form.write(calls)
            read = parse(text, form, forms(tools)).tool_calls
            assert [(call.name, json.loads(call.arguments)) for call in read] == [
                (call.name, json.loads(call.arguments)) for call in calls
            ], text
            assert walker.accepted(form.grammar(tools, "required", special=walker.special), text), text


def _ordered(tool: Tool, arguments: dict[str, Any]) -> ToolCall:
    """A call whose arguments come in the schema's order, which grammars ask for."""
    ordered = {name: arguments[name] for name in tool.properties if name in arguments}
    return ToolCall("", tool.name, json.dumps(ordered, ensure_ascii=False))


WEATHER = Tool("get_weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
NOW = Tool("now")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_auto_leaves_text_alone_and_holds_calls(form: Format) -> None:
    text = "Just text: {x} [y] <z>." if form.name != "openai" else "<|channel|>final<|message|>Just text."
    for walker in walkers(form):
        grammar = form.grammar([WEATHER, NOW], "auto", special=walker.special)
        assert walker.accepted(grammar, text)
        call = form.write([ToolCall("", "get_weather", '{"city": "Paris"}')])
        assert walker.accepted(grammar, call)
        if form.opening and form.name != "openai":
            assert walker.accepted(grammar, f"Look.\n{call}")
        for wrong in (ToolCall("", "other", "{}"), ToolCall("", "get_weather", '{"town": "Paris"}')):
            assert not walker.begun(grammar, form.write([wrong])), form.write([wrong])
            if form.opening and form.name != "openai":
                assert not walker.begun(grammar, f"Look.\n{form.write([wrong])}")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_choices_are_held(form: Format) -> None:
    now = form.write([ToolCall("", "now", "{}")])
    weather = form.write([ToolCall("", "get_weather", '{"city": "Paris"}')])
    both = form.write([ToolCall("", "now", "{}"), ToolCall("", "get_weather", '{"city": "Paris"}')])
    for walker in walkers(form):
        named = form.grammar([WEATHER, NOW], "now", special=walker.special)
        assert walker.accepted(named, now)
        assert not walker.accepted(named, weather)
        assert not walker.begun(named, "Just text.")
        for choice in ("auto", "required"):
            single = form.grammar([WEATHER, NOW], choice, parallel=False, special=walker.special)
            assert walker.accepted(single, weather)
            assert not walker.begun(single, both)
        if form.name != "openai":
            assert walker.accepted(form.grammar([WEATHER, NOW], "required", special=walker.special), both)


def test_an_unknown_choice_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'get_wether'.*did you mean 'get_weather'"):
        find("hermes").grammar([WEATHER, NOW], "get_wether")
    with pytest.raises(ConfigError):
        find("hermes").grammar([], "required")
    with pytest.raises(ConfigError, match="passthrough"):
        find("passthrough").grammar([WEATHER])


@pytest.mark.parametrize("name", ["hermes", "mistral", "pythonic", "deepseek_v31"])
def test_a_strict_tool_keeps_its_bounds(name: str) -> None:
    bounded = {
        "type": "object",
        "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"}},
        "required": ["code"],
    }
    form, walker = find(name), Walker([])
    grammar = form.grammar([Tool("f", bounded, strict=True)], "required")
    assert walker.accepted(grammar, form.write([ToolCall("", "f", '{"code": "ABC"}')]))
    assert not walker.begun(grammar, form.write([ToolCall("", "f", '{"code": "abc"}')]))


@pytest.mark.parametrize("name", ["qwen3_coder", "glm45", "gemma4", "minimax_m2", "deepseek_v32"])
def test_a_strict_tool_that_plain_text_cannot_hold_is_refused(name: str) -> None:
    bounded = {
        "type": "object",
        "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"}},
        "required": ["code"],
    }
    with pytest.raises(ConfigError, match=r"'f'.*'pattern'"):
        find(name).grammar([Tool("f", bounded, strict=True)], "required")
    assert Walker([]).error(find(name).grammar([Tool("f", bounded)], "required")) == ""
    hidden = {"properties": {"code": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/code"}]}}}
    with pytest.raises(ConfigError, match=r"'f'.*'pattern'"):
        find(name).grammar(
            [Tool("f", {**hidden, "$defs": {"code": {"type": "string", "pattern": "x"}}}, strict=True)], "required"
        )


@pytest.mark.parametrize("name", ["pythonic", "gemma4"])
def test_a_strict_tool_whose_schema_is_not_walked_whole_is_refused(name: str) -> None:
    listed = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(ConfigError, match=r"'f'.*'uniqueItems'"):
        find(name).grammar([Tool("f", listed, strict=True)], "required")
    assert Walker([]).error(find(name).grammar([Tool("f", listed)], "required")) == ""


ODD: list[Any] = [
    {},
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"properties": None},
    {"properties": {"a": True, "b": None, "c": {}, "d": {"type": ["string", "null"]}, "e": {"enum": [1, "x", None]}}},
    {
        "properties": {"a": {"$ref": "#/$defs/node"}},
        "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}},
    },
    {"properties": {"a": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}}},
    {"properties": {"a": {"type": "object", "additionalProperties": {"type": "boolean"}}}},
    {"properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "b": {"const": "k"}}},
    {"properties": {"a": {"type": "string", "format": "no-such-format"}}, "required": "a"},
    {"properties": {'quo"te': {"type": "string"}, "new\nline": {"type": "integer"}}},
]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_schema_without_bottom_is_refused(form: Format) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        form.grammar([Tool("f", nested(5_000))], "required")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: json.dumps(odd)[:60])
def test_odd_schemas_give_grammars(form: Format, odd: Any) -> None:
    for walker, choice in zip(walkers(form), ("auto", "f"), strict=False):
        assert walker.error(form.grammar([Tool("f", odd)], choice, special=walker.special)) == ""


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": {"a": "string"}},
        {"type": "object", "properties": {"a": {}}, "required": "a"},
        {"type": "object", "properties": {"a": {}}, "required": [1]},
    ],
)
@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "pythonic"])
def test_a_strict_tool_whose_schema_is_none_is_refused(name: str, schema: dict[str, Any]) -> None:
    find(name).grammar([Tool("f", schema)], "required")
    with pytest.raises(ConfigError, match="no schema that can be enforced"):
        find(name).grammar([Tool("f", schema, strict=True)], "required")


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["hermes", "mistral", "pythonic", "qwen3_coder", "deepseek_v31"])
def test_thinking_may_come_first(name: str, special: bool) -> None:
    form = find(name)
    walker = Walker([*form.marks, "<think>", "</think>"] if special else [])
    call = form.write([ToolCall("", "now", "{}")])
    wrong = form.write([ToolCall("", "other", "{}")])
    thought = "I may write <b> or {x}.\n</think>\n\n"
    for choice in ("auto", "required", "now"):
        grammar = form.grammar([WEATHER, NOW], choice, special=walker.special, thinking=("<think>", "</think>"))
        assert walker.accepted(grammar, call)
        assert walker.accepted(grammar, f"<think>\n{thought}{call}")
        assert not walker.begun(grammar, f"<think>\n{thought}{wrong}")
        begun = form.grammar([WEATHER, NOW], choice, special=walker.special, thinking=("", "</think>"))
        assert walker.accepted(begun, thought + call)
        assert not walker.begun(begun, thought + wrong)
        assert not walker.accepted(begun, "no end of thinking")


def test_thinking_may_come_before_a_json_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for walker in (Walker([]), Walker(["<think>", "</think>"])):
        free = json_answer(schema, ("<think>", "</think>"), walker.special)
        assert walker.accepted(free, '{"a": 1}')
        assert walker.accepted(free, '<think>{"b": 2}</think>\n{"a": 1}')
        assert not walker.begun(free, '{"b"')
        begun = json_answer(schema, ("", "</think>"), walker.special)
        assert walker.accepted(begun, 'Hm.</think>{"a": 1}')
        assert not walker.accepted(begun, '{"a": 1}')
        assert walker.accepted(json_answer(schema), '{"a": 1}')


@pytest.mark.parametrize("name", ["pythonic", "lfm2", "olmo3"])
@pytest.mark.parametrize(
    "arguments", ["s='it is', b=true, n=null, e='red'", 's="it\'s", b=True, n=None, e="red"', r"s='it\'s', e='red'"]
)
def test_python_is_written_as_either_kind_of_template_writes_it(name: str, arguments: str) -> None:
    kinds = {"s": {"type": "string"}, "b": {"type": "boolean"}, "n": {"type": "null"}, "e": {"enum": ["red", "blue"]}}
    form = find(name)
    text = form.write([ToolCall("", "f", "{}")]).replace("f()", f"f({arguments})")
    grammar = form.grammar([Tool("f", {"type": "object", "properties": kinds})], "required")
    assert Walker([]).error(grammar) == ""
    assert Walker([]).accepted(grammar, text)
    assert json.loads(parse(text, form).tool_calls[0].arguments)["e"] == "red"
