"""What streams, when it streams, and the bugs that parsers of tool calls are known for."""

import json
import re

import pytest

from candle_vllm import tools
from candle_vllm.tools import (
    FORMATS,
    CallArguments,
    CallEnded,
    CallStarted,
    ParsedReply,
    Splitter,
    Text,
    ToolCall,
    find,
    parse,
    system_prompt,
)

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": {"b": "x"}}}\n</tool_call>'


def test_a_reply_is_told_as_it_becomes_certain() -> None:
    splitter = Splitter("hermes")
    assert splitter.feed("Look.") == [Text("Look.")]
    assert splitter.feed("\n<tool") == []
    assert splitter.feed('_call>\n{"name": "f"') == []
    started, arguments = splitter.feed(', "arguments": {"city": "Pa')
    assert isinstance(started, CallStarted)
    assert (started.index, started.name) == (0, "f")
    assert arguments == CallArguments(0, '{"city": "Pa')
    assert splitter.feed('ris"}') == [CallArguments(0, 'ris"}')]
    assert splitter.feed("}\n</tool_call>") == [CallEnded(0)]
    assert splitter.feed("\n") == []
    assert splitter.end() == []
    assert not splitter.truncated


def test_plain_text_for_a_string_streams_too() -> None:
    schema = [{"name": "f", "parameters": {"properties": {"s": {"type": "string"}}}}]
    splitter = Splitter("qwen3_coder", schema)
    splitter.feed("<tool_call>\n<function=f>\n<parameter=s>\n")
    assert splitter.feed('line "one"\nline') == [CallArguments(0, 'line \\"one\\"\\nline')]
    assert splitter.feed(" two\n</param") == [CallArguments(0, " two")]


def test_several_tokens_at_once_lose_no_brace() -> None:
    splitter = Splitter("hermes")
    events = [*splitter.feed(CALL[:40]), *splitter.feed(CALL[40:]), *splitter.end()]
    arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
    assert arguments == '{"a": {"b": "x"}}'


def test_the_name_comes_once_and_the_id_is_unique() -> None:
    splitter = Splitter("hermes")
    events = [event for character in CALL * 3 for event in splitter.feed(character)] + splitter.end()
    heads = [event for event in events if isinstance(event, CallStarted)]
    assert [head.index for head in heads] == [0, 1, 2]
    assert {head.name for head in heads} == {"f"}
    assert len({head.id for head in heads}) == 3
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", head.id) for head in heads)


def test_mistrals_templates_accept_its_ids() -> None:
    ids = {parse("[TOOL_CALLS]f[ARGS]{}", "mistral").tool_calls[0].id for _ in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch(r"[a-zA-Z0-9]{9}", id_) for id_ in ids)


@pytest.mark.parametrize(
    "prose", ["Sets are {1, 2}.", "{", "{ }", "[", "a[0] = {}", "f(x) = {x}", "<tool", "functools"]
)
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_brackets_in_prose_are_text(form: tools.Format, prose: str) -> None:
    assert parse(prose, form) == ParsedReply(prose, [])


def test_a_stop_text_may_cut_an_end_tag() -> None:
    """The engine stops at `</tool_call>`, or within it, and takes it away: the call is whole all the same."""
    for text in (CALL.removesuffix("</tool_call>"), CALL.removesuffix("\n</tool_call>")):
        reply = parse(text, "hermes")
        assert (reply.content, reply.truncated) == (None, False)
        assert [call.arguments for call in reply.tool_calls] == ['{"a": {"b": "x"}}']
    assert parse(CALL.removesuffix("_call>"), "hermes").tool_calls[0].name == "f"


def test_no_calls_are_read_where_none_are_wanted() -> None:
    assert parse(CALL, "passthrough") == ParsedReply(CALL, [])


@pytest.mark.parametrize("form", [form for form in FORMATS if form.name != "passthrough"], ids=lambda form: form.name)
def test_marks_name_every_special_text_of_a_call(form: tools.Format) -> None:
    """The engine must not strip them: without them the parser would see text."""
    written = form.write([ToolCall("", "f", '{"a": "b"}'), ToolCall("", "g", "{}")])
    looks_special = re.findall(
        r"<[|｜][^<>]*?>|<[^<>|]*?\|>|\[[A-Z_]{4,}\]|</?(?:tool_calls?|function_calls|escape)>", written
    )
    assert all(any(mark in text for mark in form.marks) for text in looks_special), looks_special


@pytest.mark.parametrize("form", [form for form in FORMATS if form.name != "passthrough"], ids=lambda form: form.name)
def test_what_is_written_is_read(form: tools.Format) -> None:
    calls = [
        ToolCall(
            "", "get_weather", json.dumps({"city": "São Paulo", "days": [1, None, {"k": True}]}, ensure_ascii=False)
        ),
        ToolCall("", "now", "{}"),
    ]
    read = parse(form.write(calls), form).tool_calls
    assert [(call.name, json.loads(call.arguments)) for call in read] == [
        (call.name, json.loads(call.arguments)) for call in calls
    ]


def test_the_fallbacks_prompt_shows_the_tools_and_what_is_read() -> None:
    prompt = system_prompt(
        [{"type": "function", "function": {"name": "f", "description": "Änders.", "parameters": {}}}]
    )
    assert '{"name": "f", "description": "Änders.", "parameters": {}}' in prompt
    shown = prompt[prompt.index("<tool_call>") :]
    assert parse(shown, "generic").tool_calls[0].name == "the function's name"


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "f", "arguments": {"a": "b',
        '<tool_call>\n{"name": "f", "arguments": {"a": ',
        "<tool_call>",
    ],
)
def test_a_reply_that_ends_inside_a_call_is_truncated(text: str) -> None:
    splitter = Splitter("hermes")
    events = [*splitter.feed(text), *splitter.end()]
    assert splitter.truncated
    assert not any(isinstance(event, CallEnded) for event in events)


def test_nothing_is_nothing() -> None:
    for form in FORMATS:
        assert parse("", form) == ParsedReply("", [])
        splitter = Splitter(form)
        assert splitter.feed("") == splitter.end() == []


def test_parsing_stands_alone() -> None:
    """As gateways use it: one name, one text, no tools."""
    import candle_vllm

    reply = candle_vllm.tools.parse("[TOOL_CALLS]f[ARGS]{}", find("mistral"))
    assert reply.tool_calls[0].arguments == "{}"


def test_what_a_grammar_held_has_no_calls_that_only_resemble_one() -> None:
    bare = '{"name": "f", "arguments": {}}'
    tools = [{"type": "function", "function": {"name": "f"}}]
    for text, held, calls in ((bare, False, 1), (bare, True, 0), (f"<tool_call>\n{bare}\n</tool_call>", True, 1)):
        splitter = Splitter("generic", tools, held=held)
        events = [*splitter.feed(text), *splitter.end()]
        assert sum(isinstance(event, CallStarted) for event in events) == calls
    # Where bare objects are the format's own way they are calls all the same.
    splitter = Splitter("llama3_json", tools, held=True)
    assert isinstance(splitter.feed('{"name": "f", "parameters": {}}')[0], CallStarted)
