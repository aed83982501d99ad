"""Every field of a chat request, one by one: honoured, without effect by definition, or a 400 that names it."""

from __future__ import annotations

from typing import Any

import pytest

from candle_vllm.openai import ApiError, ChatCompletion, ChatCompletionRequest, CompletionRequest, OpenAIAdapter
from candle_vllm.params import GenerationParams
from fake_engine import CHATML, FakeEngine

TEMPLATE = (
    CHATML.replace("{% for", "{{ tools }}{{ documents }}{{ extra }}{{ reasoning_effort }}{# <think> #}{% for", 1)
    # Calls and their results have a place in it.
    + "{# {{ tool_calls }} #}{% if false %}{{ messages[0].tool_calls }}{% endif %}"
)
ASK: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "hello"}], "seed": 1}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
FUNCTION = {"name": "add", "parameters": {"type": "object"}}
JSON = {"type": "json_object"}

# What a field does: a parameter of the engine's, words in the prompt, how it is submitted, or what the reply shows.
HONOURED: list[tuple[str, Any, dict[str, Any]]] = [
    ("model", "other", {"reply.model": "other"}),
    ("messages", [{"role": "user", "content": "bye"}], {"prompt": "bye"}),
    ("max_tokens", 3, {"params.max_tokens": 3}),
    ("max_completion_tokens", 3, {"params.max_tokens": 3}),
    ("temperature", 0.5, {"params.temperature": 0.5}),
    ("top_p", 0.5, {"params.top_p": 0.5}),
    ("top_k", 5, {"params.top_k": 5}),
    ("min_p", 0.5, {"params.min_p": 0.5}),
    ("repetition_penalty", 1.5, {"params.repetition_penalty": 1.5}),
    ("frequency_penalty", 0.5, {"params.frequency_penalty": 0.5}),
    ("presence_penalty", 0.5, {"params.presence_penalty": 0.5}),
    ("logit_bias", {"65": 5}, {"params.logit_bias": {65: 5.0}}),
    ("min_tokens", 2, {"params.min_tokens": 2}),
    ("ignore_eos", True, {"params.ignore_eos": True}),
    ("stop", ["xyz"], {"params.stop_sequences": ("xyz",)}),
    ("stop_token_ids", [66], {"params.stop_token_ids": (66,)}),
    ("seed", 7, {"params.seed": 7}),
    ("n", 2, {"reply.choices": 2}),
    ("logprobs", True, {"params.logprobs": 0}),
    ("prompt_logprobs", 2, {"params.prompt_logprobs": 2}),
    ("response_format", JSON, {"form.json_object": True}),
    ("structured_outputs", {"regex": "a"}, {"form.regex": "a"}),
    ("guided_json", {"type": "null"}, {"form.json_schema": '{"type": "null"}'}),
    ("guided_regex", "a", {"form.regex": "a"}),
    ("guided_choice", ["a"], {"form.choice": ("a",)}),
    ("guided_grammar", 'start: "a"', {"form.grammar": 'start: "a"'}),
    ("allowed_token_ids", [65], {"grammar": "<[65]>"}),
    ("bad_words", ["A"], {"grammar": "<[^65]>"}),
    ("tools", [TOOL], {"prompt": "add"}),
    ("functions", [FUNCTION], {"prompt": "add"}),
    ("documents", [{"title": "t", "text": "see here"}], {"prompt": "see here"}),
    ("chat_template_kwargs", {"extra": "more"}, {"prompt": "more"}),
    ("reasoning_effort", "low", {"prompt": "low"}),
    ("add_generation_prompt", False, {"prompt.end": "hello\n"}),
    ("cache_salt", "s", {"how.cache_salt": "s"}),
    ("priority", 3, {"how.priority": 3}),
    ("request_id", "mine", {"reply.id": "chatcmpl-mine"}),
    ("return_token_ids", True, {"reply.prompt_token_ids": True}),
    ("thinking_token_budget", 5, {"submitted": 1}),
]
# They change nothing that a model says: who asks, what it costs, what is kept of it, how it is billed or cached.
WITHOUT_EFFECT: list[tuple[str, Any]] = [
    ("store", True),
    ("metadata", {"a": "b"}),
    ("user", "u"),
    ("safety_identifier", "s"),
    ("prompt_cache_key", "k"),
    ("prompt_cache_options", {}),
    ("prompt_cache_retention", "24h"),
    ("service_tier", "auto"),
    ("verbosity", "low"),
    ("prediction", {"type": "content", "content": "x"}),
    ("modalities", ["text"]),
    # Without tools there is nothing that they could say.
    ("parallel_tool_calls", False),
    ("tool_choice", "none"),
    ("function_call", "none"),
]
REFUSED: list[tuple[str, Any]] = [
    ("audio", {"voice": "alloy", "format": "mp3"}),
    ("modalities", ["text", "audio"]),
    ("moderation", {}),
    ("web_search_options", {}),
    ("top_logprobs", 2),
    ("stream_options", {"include_usage": True}),
    ("tool_choice", "required"),
    ("function_call", {"name": "add"}),
    ("chat_template_kwargs", {"messages": []}),
    ("nonsense", 1),
]
# Their effect is tried where it is seen: over streams, together with other fields.
ELSEWHERE = {
    "stream": "tests/openai/test_adapter.py",
    "stream_options": "tests/openai/test_adapter.py",
    "top_logprobs": "tests/openai/test_adapter.py",
    "continue_final_message": "tests/openai/test_adapter.py",
    "include_stop_str_in_output": "tests/openai/test_adapter.py",
    "skip_special_tokens": "tests/openai/test_adapter.py",
    "tool_choice": "tests/openai/test_chat_tools.py",
    "parallel_tool_calls": "tests/openai/test_chat_tools.py",
    "function_call": "tests/openai/test_chat_tools.py",
    "mcp": "tests/server/test_mcp.py",
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(chat_templates={"default": TEMPLATE})


@pytest.fixture
def adapter(engine: FakeEngine) -> OpenAIAdapter:
    return OpenAIAdapter(engine)


def test_no_field_is_missing_here() -> None:
    tables = (HONOURED, WITHOUT_EFFECT, REFUSED)
    tried = {row[0] for table in tables for row in table} | set(ELSEWHERE)
    assert set(ChatCompletionRequest.model_fields) == tried - {"nonsense"}


def seen(engine: FakeEngine, reply: ChatCompletion) -> dict[str, Any]:
    prompt, params = engine.submitted[-1]
    found: dict[str, Any] = {f"params.{name}": getattr(params, name) for name in GenerationParams.__dataclass_fields__}
    for name in ("json_object", "json_schema", "regex", "choice", "grammar"):
        found[f"form.{name}"] = getattr(params.form, name, None)
    found |= {f"how.{name}": value for name, value in engine.how.items()}
    found |= {"reply.model": reply.model, "reply.id": reply.id, "reply.choices": len(reply.choices)}
    found["reply.prompt_token_ids"] = reply.prompt_token_ids == prompt
    found["submitted"] = len(engine.submitted)
    return found


@pytest.mark.parametrize(("field", "value", "effects"), HONOURED, ids=[row[0] for row in HONOURED])
def test_honoured(engine: FakeEngine, adapter: OpenAIAdapter, field: str, value: Any, effects: dict[str, Any]) -> None:
    plain = seen(engine, adapter.chat_completion(ASK))
    bare = engine.detokenize(engine.submitted.pop()[0])
    reply = adapter.chat_completion({**ASK, field: value})
    found, prompt = seen(engine, reply), engine.detokenize(engine.submitted[-1][0])
    for what, wanted in effects.items():
        if what == "prompt":
            assert wanted in prompt
            assert wanted not in bare
        elif what == "prompt.end":
            assert prompt.endswith(wanted)
            assert not bare.endswith(wanted)
        elif what == "grammar":
            assert wanted in found["form.grammar"]
        else:
            assert found[what] == wanted
            assert what == "submitted" or plain[what] != wanted


@pytest.mark.parametrize(("field", "value"), WITHOUT_EFFECT, ids=[row[0] for row in WITHOUT_EFFECT])
def test_without_effect(engine: FakeEngine, adapter: OpenAIAdapter, field: str, value: Any) -> None:
    plain = adapter.chat_completion(ASK)
    reply = adapter.chat_completion({**ASK, field: value})
    assert engine.submitted[0] == engine.submitted[1]
    assert reply.choices == plain.choices
    assert reply.usage == plain.usage


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[f"{row[0]} {row[1]}" for row in REFUSED])
def test_refused_by_name(adapter: OpenAIAdapter, field: str, value: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        adapter.chat_completion({**ASK, field: value})
    assert refusal.value.status == 400
    assert (refusal.value.param or "").startswith(field)
    assert f"'{field}" in str(refusal.value) or f": {field}" in str(refusal.value)


# As vLLM has them in its two requests, and what is different here is refused like any unknown field.
VLLM_CHAT = {
    "chat_template",
    "echo",
    "add_special_tokens",
    "mm_processor_kwargs",
    "include_reasoning",
    "use_beam_search",
}
VLLM_BOTH = {"length_penalty", "truncate_prompt_tokens", "spaces_between_special_tokens", "kv_transfer_params"}


@pytest.mark.parametrize("field", sorted(VLLM_CHAT | VLLM_BOTH))
def test_what_others_have_and_this_has_not_is_never_dropped(adapter: OpenAIAdapter, field: str) -> None:
    with pytest.raises(ApiError, match=field) as refusal:
        adapter.chat_completion({**ASK, field: 1})
    assert (refusal.value.param, refusal.value.code) == (field, "unknown_parameter")
    if field in VLLM_BOTH:
        with pytest.raises(ApiError, match=field):
            adapter.completion({"prompt": "a", field: 1})


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_the_prompt(adapter: OpenAIAdapter, engine: FakeEngine, stream: bool) -> None:
    request = {**ASK, "n": 2, "prompt_logprobs": 2, "max_tokens": 3}
    if stream:
        [scored] = [c.prompt_logprobs for c in adapter.chat_completion_stream(request) if c.prompt_logprobs]
    else:
        found = adapter.chat_completion(request).prompt_logprobs
        assert found is not None
        scored = found
    prompt = engine.submitted[-1][0]
    # The prompt is one, whatever the number of answers.
    assert [params.prompt_logprobs for _, params in engine.submitted] == [2, None]
    assert len(scored) == len(prompt)
    assert scored[0] is None
    for token, entries in zip(prompt[1:], scored[1:], strict=True):
        assert entries is not None
        own = entries[str(token)]
        assert own.rank == 1
        assert own.decoded_token == adapter.served.active.texts.text(token)  # type: ignore[union-attr]
    text = {"prompt": "ab", "prompt_logprobs": 1, "max_tokens": 2}
    if stream:
        pieces = [chunk.choices[0].prompt_logprobs for chunk in adapter.completion_stream(text)]
    else:
        pieces = [adapter.completion(text).choices[0].prompt_logprobs]
    [scores] = [piece for piece in pieces if piece]
    assert [None if each is None else list(each) for each in scores] == [None, ["98"]]


def test_the_whole_vocabulary_of_a_long_prompt_is_refused(adapter: OpenAIAdapter) -> None:
    adapter.chat_completion({**ASK, "prompt_logprobs": -1})
    with pytest.raises(ApiError, match="log-probabilities of prompt tokens") as refusal:
        adapter.chat_completion(
            {**ASK, "prompt_logprobs": -1, "messages": [{"role": "user", "content": "x" * 1500}], "max_tokens": 1}
        )
    assert refusal.value.param == "prompt_logprobs"


def test_a_completion_has_the_same_fields() -> None:
    shared = set(CompletionRequest.model_fields) - {"prompt", "echo", "best_of", "suffix", "add_special_tokens"}
    assert shared <= set(ChatCompletionRequest.model_fields)
