"""Parsing takes linear time, and little of it: long arguments and long texts in every format."""

import json
import time

import pytest

from candle_vllm.tools import FORMATS, Format, Splitter, ToolCall, parse

FORMS = [form for form in FORMATS if form.name != "passthrough"]
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "o": {}}}}}
]


def call(form: Format, length: int) -> tuple[str, dict[str, object]]:
    text = ('a line of "text", {braces} and [brackets]: it\'s <b>bold</b>\\\n' * (length // 60 + 1))[:length]
    arguments: dict[str, object] = {"s": text, "o": [{"k": [n, None]} for n in range(length // 100)]}
    return form.write([ToolCall("", "f", json.dumps(arguments))]), arguments


def seconds(form: Format, text: str, step: int) -> float:
    """Of this thread's own time, the least of two tries: other programs do not count."""

    def once() -> float:
        splitter = Splitter(form, TOOLS)
        start = time.thread_time()
        for at in range(0, len(text), step):
            splitter.feed(text[at : at + step])
        splitter.end()
        return time.thread_time() - start

    return min(once(), once())


def grows_linearly(form: Format, short: str, long: str, step: int) -> bool:
    """Whether a text eight times as long costs far less than the sixty-four times of quadratic time."""
    assert 7 < len(long) / len(short) < 9
    return seconds(form, long, step) < 24 * max(seconds(form, short, step), 0.001)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_long_argument_is_read_whole(form: Format) -> None:
    text, arguments = call(form, 100_000)
    reply = parse(text, form, TOOLS)
    assert [json.loads(call.arguments) for call in reply.tool_calls] == [arguments]


@pytest.mark.parametrize("step", [1, 4, 1_000_000])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_long_argument_takes_linear_time(form: Format, step: int) -> None:
    length = 5_000 if step == 1 else 12_500
    assert grows_linearly(form, call(form, length)[0], call(form, 8 * length)[0], step)


@pytest.mark.parametrize(
    "hostile", ["<", "{", "[", '{"name": "', '{"function": ', "[f(", "<tool_call>", " ", "\n{", "\n[a(", "\\", '"', "'"]
)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_hostile_repetition_takes_linear_time(form: Format, hostile: str) -> None:
    assert grows_linearly(form, form.opening + hostile * 500, form.opening + hostile * 4_000, 7)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_token_costs_little(form: Format) -> None:
    """Far below 20 microseconds on an idle machine; the bound leaves room for a busy one."""
    text, _ = call(form, 20_000)
    tokens = len(text) // 4
    assert seconds(form, text, 4) / tokens < 40e-6
    prose = "Some words, and then some more of them. " * 500
    assert seconds(form, prose, 4) / (len(prose) // 4) < 20e-6
