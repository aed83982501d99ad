"""accumulate: for random answers, formats and requests the chunks add up to the very bytes of the whole reply."""

from __future__ import annotations

import random
from typing import Any

import pytest

from candle_vllm.models import Notation, SingleModel
from candle_vllm.openai import OpenAIAdapter, accumulate
from candle_vllm.openai.endpoint import serialised
from candle_vllm.tools import ToolCall, find
from fake_engine import CHATML, FakeEngine

FORMATS = ("hermes", "mistral", "llama3_json", "qwen3_coder", "pythonic", "deepseek_v3", "kimi_k2", "glm45")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}},
        },
    }
    for name in ("add", "paint")
]
WORDS = ("the", " sea", "é", "🦀", " ", "\n", '"', "{", "}", "<", "</", "a b", "\u2028", "\\", "[1]", "0")


def words(random_: random.Random, most: int) -> str:
    return "".join(random_.choices(WORDS, k=random_.randint(1, most)))


def model_over(random_: random.Random) -> OpenAIAdapter:
    """A model of some format that thinks, speaks and calls as it likes."""
    form = find(random_.choice(FORMATS))
    said = ""
    thinks = random_.random() < 0.5
    if thinks:
        said += f"<think>{words(random_, 9)}</think>"
    if random_.random() < 0.8:
        said += words(random_, 9)
    if random_.random() < 0.6:
        calls = [
            ToolCall(f"call_{n}", random_.choice(("add", "paint")), '{"a": "x", "b": 1}')
            for n in range(random_.randint(1, 3))
        ]
        said += form.write(calls)
    template = "{# tools" + (" <think> #}" if thinks else " #}") + CHATML.replace("{% for", "{{ tools }}{% for", 1)
    engine = FakeEngine(answer=said or "x", chat_templates={"default": template})
    models = SingleModel(engine, notation=Notation(tool_format=form))
    return OpenAIAdapter(models)


@pytest.mark.parametrize("seed", range(150))
def test_a_chat(seed: int) -> None:
    random_ = random.Random(seed)
    adapter = model_over(random_)
    request: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "request_id": "same", "model": "m"}
    if random_.random() < 0.7:
        request |= random_.choice(
            [{"tools": TOOLS}, {"functions": [tool["function"] for tool in TOOLS], "function_call": "auto"}]
        )
    for field, value in (
        ("logprobs", True),
        ("return_token_ids", True),
        ("prompt_logprobs", 1),
        ("n", random_.randint(2, 3)),
        ("max_tokens", random_.randint(1, 30)),
        ("stop", [" ", "b"]),
    ):
        if random_.random() < 0.4:
            request[field] = value
    whole = adapter.chat_completion(request)
    chunks = list(adapter.chat_completion_stream({**request, "stream_options": {"include_usage": True}}))
    again = accumulate(chunks)
    again.created = whole.created
    # What is random, ids of calls, is not the same in two requests.
    for ours, theirs in zip(again.choices, whole.choices, strict=True):
        for one, other in zip(ours.message.tool_calls or (), theirs.message.tool_calls or (), strict=True):
            one.id = other.id
    assert again.model_dump(exclude_unset=True) == whole.model_dump(exclude_unset=True)
    assert len(serialised(again)) == len(serialised(whole))
    unpaid = accumulate(adapter.chat_completion_stream(request))
    assert unpaid.usage is None


@pytest.mark.parametrize("seed", range(60))
def test_a_completion(seed: int) -> None:
    random_ = random.Random(seed)
    adapter = OpenAIAdapter(FakeEngine(answer=words(random_, 20)))
    request: dict[str, Any] = {"prompt": random_.choice(["ab", ["a", "bc"], [97, 98]]), "request_id": "same"}
    for field, value in (
        ("logprobs", random_.randint(0, 3)),
        ("return_token_ids", True),
        ("prompt_logprobs", 1),
        ("echo", True),
        ("n", random_.randint(2, 3)),
        ("max_tokens", random_.randint(1, 30)),
        ("stop", [" ", "b"]),
    ):
        if random_.random() < 0.4:
            request[field] = value
    whole = adapter.completion(request)
    again = accumulate(adapter.completion_stream({**request, "stream_options": {"include_usage": True}}))
    again.created = whole.created
    assert again.model_dump(exclude_unset=True) == whole.model_dump(exclude_unset=True)


def test_what_is_no_stream() -> None:
    adapter = OpenAIAdapter(FakeEngine())
    request = {"messages": [{"role": "user", "content": "hi"}]}
    one, other = (list(adapter.chat_completion_stream(request)) for _ in range(2))
    with pytest.raises(ValueError, match="no chunks"):
        accumulate([])
    with pytest.raises(ValueError, match="several streams"):
        accumulate([*one, *other])
    with pytest.raises(ValueError, match="cut off"):
        accumulate(one[:-1])


def test_warnings_and_waits() -> None:
    adapter = OpenAIAdapter(FakeEngine(), unknown_fields="warn")
    request = {"messages": [{"role": "user", "content": "hi"}], "odd": 1}
    assert accumulate(adapter.chat_completion_stream(request)).warnings == adapter.chat_completion(request).warnings
