"""Every field of a request does what it says, or is refused by its name; none is ignored without a word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from candle_vllm.openai import ApiError, OpenAIAdapter, Responses
from candle_vllm.openai.endpoint import serialised
from candle_vllm.openai.responses import ResponsesRequest
from fake_engine import CHATML, FakeEngine

FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
LIMIT = {"max_output_tokens": 60}
# Field, value, what else is asked, and where to what effect: in the parameters, the way of submitting, the prompt, the
# response.
EFFECT: list[tuple[str, Any, dict[str, Any], str, Any]] = [
    ("instructions", "be brief", {}, "prompt", "system\nbe brief\nuser\nhello\nassistant\n"),
    ("max_output_tokens", 5, {}, "params.max_tokens", 5),
    ("temperature", 0.25, {}, "params.temperature", 0.25),
    ("top_p", 0.5, {}, "params.top_p", 0.5),
    ("top_k", 4, {}, "params.top_k", 4),
    ("min_p", 0.5, {}, "params.min_p", 0.5),
    ("repetition_penalty", 1.5, {}, "params.repetition_penalty", 1.5),
    ("seed", 9, {}, "params.seed", 9),
    ("top_logprobs", 3, {}, "params.logprobs", 3),
    ("include", ["message.output_text.logprobs"], {}, "params.logprobs", 0),
    ("cache_salt", "mine", {}, "how.cache_salt", "mine"),
    ("priority", 3, {}, "how.priority", 3),
    ("model", "fake", {}, "response.model", "fake"),
    ("metadata", {"a": "b"}, {}, "response.metadata", {"a": "b"}),
    ("store", False, {}, "response.store", False),
    ("truncation", "auto", {}, "response.truncation", "auto"),
    ("user", "u", {}, "response.user", "u"),
    ("safety_identifier", "s", {}, "response.safety_identifier", "s"),
    ("prompt_cache_key", "k", {}, "response.prompt_cache_key", "k"),
    ("service_tier", "auto", {}, "response.service_tier", "default"),
    ("max_tool_calls", 3, {}, "response.max_tool_calls", 3),
    ("parallel_tool_calls", False, {"tools": [FUNCTION]}, "response.parallel_tool_calls", False),
    ("tools", [FUNCTION], {}, "response.tools", [{**FUNCTION, "description": None, "strict": None}]),
    ("tool_choice", "required", {"tools": [FUNCTION]}, "response.tool_choice", "required"),
    ("text", {"verbosity": "low"}, {}, "prompt", "low|||user\nhello\nassistant\n"),
    ("text", {"format": {"type": "json_object"}}, {}, "response.text.format", {"type": "json_object"}),
    ("reasoning", {"effort": "high"}, {}, "prompt", "|high||user\nhello\nassistant\n"),
    ("chat_template_kwargs", {"mood": "glad"}, {}, "prompt", "||glad|user\nhello\nassistant\n"),
    ("thinking_token_budget", 0, {}, "submitted", 2),
]
# What is kept where, and what it costs, is nothing here.
WITHOUT_EFFECT = {"prompt_cache_options": {}, "prompt_cache_retention": "24h"}
REFUSED = {
    "access_programs": {"cyber": "standard"},
    "background_options": {"completion_window": "2h"},
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {"context_compression": "auto"},
    "moderation": {"model": "x"},
    "prompt": {"id": "pmpt_1"},
    "previous_response_id": "resp_1",
    "stream_options": {"include_obfuscation": True},
}
ELSEWHERE = {"input": "test_client.py", "stream": "test_writer.py", "background": "test_background.py"}


def test_none_is_forgotten() -> None:
    known = {name for name, *_ in EFFECT} | WITHOUT_EFFECT.keys() | REFUSED.keys() | ELSEWHERE.keys()
    assert known == set(ResponsesRequest.model_fields)


def ask(engine: FakeEngine, **fields: Any) -> dict[str, Any]:
    responses = Responses(OpenAIAdapter(engine))
    try:
        found: dict[str, Any] = json.loads(serialised(responses.create({"input": "hello", **fields})))
        return found
    finally:
        responses.close()


@pytest.mark.parametrize(("field", "value", "more", "where", "wanted"), EFFECT)
def test_effects(field: str, value: Any, more: dict[str, Any], where: str, wanted: Any) -> None:
    engine = FakeEngine()
    if "|" in str(wanted):
        engine.chat_templates = {"default": "{{ verbosity }}|{{ reasoning_effort }}|{{ mood }}|" + CHATML}
    if field == "thinking_token_budget":
        engine.chat_templates, engine.answer = {"default": "{# <think> #}" + CHATML}, "<think>hm, hm</think>yes"
        more = LIMIT
    response = ask(engine, **{field: value}, **more)
    prompt, params = engine.submitted[-1]
    place, _, name = where.partition(".")
    if place == "response":
        for part in name.split("."):
            response = response[part]
        assert response == wanted
    elif place == "params":
        assert getattr(params, name) == wanted
    else:
        found = {"prompt": engine.detokenize(prompt), "submitted": len(engine.submitted), "how": engine.how.get(name)}
        assert found[place] == wanted
    if field in ("tools", "tool_choice", "parallel_tool_calls") or "format" in str(value):
        assert params.form is not None


@pytest.mark.parametrize(("field", "value"), WITHOUT_EFFECT.items())
def test_without_effect(field: str, value: Any) -> None:
    assert ask(FakeEngine(), **{field: value})["status"] == "completed"


@pytest.mark.parametrize(("field", "value"), REFUSED.items())
def test_refused(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        ask(FakeEngine(), **{field: value})
    assert refusal.value.status == 400
    assert str(refusal.value.param).startswith(field)
