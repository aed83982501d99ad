"""OpenAIAdapter over a fake engine: four doors to the same answer, cancellation, what requests become."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai.types.chat
import pytest

from candle_vllm.openai import (
    ApiError,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Completion,
    OpenAIAdapter,
    SamplingDefaults,
)
from fake_engine import CHATML, FakeEngine

HELLO: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def engine() -> FakeEngine:
    """A fresh fake engine."""
    return FakeEngine()


@pytest.fixture
def adapter(engine: FakeEngine) -> OpenAIAdapter:
    """An adapter over it that takes any model name."""
    return OpenAIAdapter(engine)


def joined(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    """The text of one answer."""
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index)


async def test_four_doors_one_answer(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    request = {**HELLO, "logprobs": True, "top_logprobs": 2, "n": 2, "seed": 5, "temperature": 0.3}
    options = {"stream_options": {"include_usage": True}}
    whole = adapter.chat_completion(request)
    awaited = await adapter.achat_completion(ChatCompletionRequest.model_validate(request))
    streamed = list(adapter.chat_completion_stream({**request, **options}))
    astreamed = [chunk async for chunk in adapter.achat_completion_stream({**request, **options})]
    assert isinstance(whole, ChatCompletion)
    for index, choice in enumerate(whole.choices):
        assert choice == awaited.choices[index]
        for chunks in (streamed, astreamed):
            mine = [c for chunk in chunks for c in chunk.choices if c.index == index]
            assert joined(chunks, index) == choice.message.content
            assert mine[-1].finish_reason == choice.finish_reason
            assert [c.delta.role for c in mine] == ["assistant"] + [None] * (len(mine) - 1)
            entries = [entry for c in mine if c.logprobs for entry in c.logprobs.content or []]
            assert choice.logprobs is not None
            assert entries == choice.logprobs.content
    for chunks in (streamed, astreamed):
        assert chunks[-1].usage == whole.usage == awaited.usage
    assert len({(params.seed, params.temperature) for _, params in engine.submitted}) == 2
    assert adapter.engine is engine


def test_usage_counts_the_prompt_once(adapter: OpenAIAdapter) -> None:
    one, three = (adapter.chat_completion({**HELLO, "n": n, "max_tokens": 4}).usage for n in (1, 3))
    assert one is not None and three is not None
    assert (three.prompt_tokens, three.completion_tokens) == (one.prompt_tokens, 12)
    assert three.prompt_tokens_details.cached_tokens == one.prompt_tokens_details.cached_tokens > 0
    several = adapter.completion({"model": "any", "prompt": ["ab", "cde"], "n": 2, "max_tokens": 4}).usage
    assert several is not None
    assert (several.prompt_tokens, several.completion_tokens) == (5, 16)


def test_usage_in_every_chunk(adapter: OpenAIAdapter) -> None:
    options = {"stream_options": {"continuous_usage_stats": True}, "max_tokens": 3}
    counts = [
        chunk.usage.completion_tokens for chunk in adapter.chat_completion_stream({**HELLO, **options}) if chunk.usage
    ]
    assert counts == [0, 1, 2, 3, 3]


def test_a_character_of_several_tokens(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    engine.answer = "é🦀"
    chunks = list(adapter.chat_completion_stream({**HELLO, "logprobs": True}))
    assert joined(chunks) == "é🦀"
    entries = [e for chunk in chunks for c in chunk.choices if c.logprobs for e in c.logprobs.content or []]
    assert bytes(b for entry in entries for b in entry.bytes or []) == "é🦀".encode()
    assert entries[0].token == "\\xc3"


@pytest.mark.parametrize("stream", [False, True])
def test_completion_logprobs_and_echo(adapter: OpenAIAdapter, stream: bool) -> None:
    request = {"model": "any", "prompt": "abc", "echo": True, "logprobs": 2, "max_tokens": 3}
    if stream:
        pieces = [chunk.choices[0] for chunk in adapter.completion_stream(request)]
    else:
        pieces = adapter.completion(request).choices
    assert "".join(piece.text for piece in pieces) == "abcYou"
    lists = [piece.logprobs for piece in pieces if piece.logprobs]
    assert [token for each in lists for token in each.tokens] == list("abcYou")
    assert [offset for each in lists for offset in each.text_offset] == list(range(6))
    assert [value is None for each in lists for value in each.token_logprobs] == [True] + [False] * 5
    tops = [top for each in lists for top in each.top_logprobs]
    assert tops[0] is None
    assert tops[1] is not None
    assert len(tops[1]) == 2


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["You said: ab"]),
        (["ab", "c"], ["You said: ab", "You said: c"]),
        ([97, 98], ["You said: ab"]),
        ([[97], [98]], ["You said: a", "You said: b"]),
    ],
)
def test_forms_of_prompts(adapter: OpenAIAdapter, prompt: Any, texts: list[str]) -> None:
    reply = adapter.completion({"model": "any", "prompt": prompt})
    assert isinstance(reply, Completion)
    assert [choice.text for choice in reply.choices] == texts


@pytest.mark.parametrize("prompt", [[], [[]], [""], [-1], ["a", 1], 5, None, [[1], "a"], {"a": 1}])
def test_what_is_no_prompt(adapter: OpenAIAdapter, prompt: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        adapter.completion({"model": "any", "prompt": prompt})
    assert (refusal.value.param or "").startswith("prompt")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ""}, "stop"),
        ({"min_tokens": 99}, "min_tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ],
)
def test_refusals_of_completions(adapter: OpenAIAdapter, change: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        adapter.completion({"model": "any", "prompt": "a", **change})
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_more_answers_than_a_request_may_have(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    with pytest.raises(ApiError, match="above 2048 answers") as refusal:
        adapter.completion({"model": "any", "prompt": ["a"] * 17, "n": 128})
    assert refusal.value.param == "prompt"
    assert not engine.submitted


def test_an_answer_goes_back_as_it_came(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    first = adapter.chat_completion(HELLO).choices[0].message
    theirs = openai.types.chat.ChatCompletionMessage(role="assistant", content="theirs")
    messages = (*HELLO["messages"], first, {"role": "user", "content": "more"}, theirs)
    adapter.chat_completion({"model": "any", "messages": messages})
    prompt = engine.detokenize(engine.submitted[-1][0])
    assert prompt == "user\nhello\nassistant\nYou said: hello\nuser\nmore\nassistant\ntheirs\nassistant\n"


def test_what_the_engine_is_asked(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    adapter.chat_completion(
        {**HELLO, "top_p": 0, "top_k": -1, "cache_salt": "s", "priority": 3, "skip_special_tokens": False}
    )
    prompt, params = engine.submitted[-1]
    assert (params.temperature, params.top_k) == (1.0, None)
    assert 0 < params.top_p < 1e-3
    assert params.max_tokens == engine.context - len(prompt)
    assert engine.how == {"cache_salt": "s", "priority": 3, "skip_special_tokens": False}
    adapter.chat_completion({**HELLO, "max_tokens": 5, "max_completion_tokens": 7, "seed": -1})
    assert engine.submitted[-1][1].max_tokens == 7
    assert engine.submitted[-1][1].seed == 2**64 - 1
    adapter.completion({"model": "any", "prompt": "a"})
    assert engine.submitted[-1][1].max_tokens == 16


def test_defaults_give_way_to_requests(engine: FakeEngine) -> None:
    adapter = OpenAIAdapter(engine, defaults=SamplingDefaults(temperature=0.2, top_k=9))
    adapter.chat_completion(HELLO)
    adapter.chat_completion({**HELLO, "temperature": 1.5, "top_k": 0})
    assert [(p.temperature, p.top_k) for _, p in engine.submitted] == [(0.2, 9), (1.5, None)]


def test_names_of_models(engine: FakeEngine) -> None:
    adapter = OpenAIAdapter(engine, model_names=["a", "b"])
    assert [card.id for card in adapter.models().data] == ["a", "b"]
    assert adapter.chat_completion({**HELLO, "model": "b"}).model == "b"
    for refused in (lambda: adapter.chat_completion(HELLO), lambda: adapter.model("c")):
        with pytest.raises(ApiError) as refusal:
            refused()
        assert refusal.value.status == 404


def test_reasoning_effort_reaches_templates_that_know_it(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    adapter.chat_completion({**HELLO, "reasoning_effort": "none"})
    engine.chat_templates = {"default": CHATML + "{{ reasoning_effort }}{{ enable_thinking }}"}
    knowing = OpenAIAdapter(engine)
    knowing.chat_completion({**HELLO, "reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": 7}})
    assert engine.detokenize(engine.submitted[-1][0]).endswith("low7")
    with pytest.raises(ApiError, match="field of its own"):
        knowing.chat_completion({**HELLO, "chat_template_kwargs": {"messages": []}})


def test_named_templates_and_documents(engine: FakeEngine) -> None:
    engine.chat_templates = {
        "default": CHATML,
        "rag": "{{ documents[0].text }} for " + CHATML,
        "tool_use": "{{ tools | length }} tools for " + CHATML,
    }
    adapter = OpenAIAdapter(engine)
    tools = [{"type": "function", "function": {"name": "f"}}]
    documents = [{"title": "t", "text": "seas"}]
    for fields, begin in (
        ({}, "user"),
        ({"documents": documents}, "seas for user"),
        ({"tools": tools}, "1 tools for user"),
        ({"tools": tools, "tool_choice": "none", "documents": documents}, "seas for user"),
    ):
        adapter.chat_completion({**HELLO, **fields})
        assert engine.detokenize(engine.submitted[-1][0]).startswith(begin)
    # The template for tools has no place for documents, which would be lost.
    with pytest.raises(ApiError, match="knows none") as refusal:
        adapter.chat_completion({**HELLO, "tools": tools, "documents": documents})
    assert (refusal.value.param, refusal.value.code) == ("documents", "unsupported_parameter")


def test_an_answer_that_was_begun(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    begun = [*HELLO["messages"], {"role": "assistant", "content": "It is"}]
    adapter.chat_completion({"model": "any", "messages": begun, "continue_final_message": True})
    assert engine.detokenize(engine.submitted[-1][0]).endswith("assistant\nIt is")
    with pytest.raises(ApiError):
        adapter.chat_completion(
            {"model": "any", "messages": begun, "continue_final_message": True, "add_generation_prompt": True}
        )


async def refused(call: Any) -> ApiError:
    """The ApiError that awaiting or calling this raises."""
    try:
        result = call()
        if inspect.isawaitable(result):
            await result
    except ApiError as error:
        return error
    raise AssertionError("nothing was refused")


async def test_failures_are_told_in_the_api_s_words(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    engine.fail_after = 2
    failed = await refused(lambda: adapter.chat_completion(HELLO))
    assert (failed.status, failed.code) == (500, "generation_failed")
    assert "caught fire" in failed.message
    with pytest.raises(ApiError, match="caught fire"):
        [chunk async for chunk in adapter.achat_completion_stream({**HELLO, "n": 2})]
    assert not engine.live
    engine.max_queue = 0
    for call in (adapter.achat_completion, adapter.chat_completion):
        full = await refused(lambda call=call: call(HELLO))
        assert (full.status, full.code, full.extra) == (503, "queue_full", {"queued": False})
    beyond = await refused(lambda: adapter.completion({"model": "any", "prompt": [5000]}))
    assert (beyond.status, beyond.param) == (400, "prompt")
    bare = OpenAIAdapter(FakeEngine(chat_templates={}))
    assert "no chat template" in (await refused(lambda: bare.chat_completion(HELLO))).message
    engine.failure = "the device caught fire"
    dead = await refused(lambda: adapter.chat_completion(HELLO))
    assert (dead.status, dead.code) == (503, "engine_failed")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages[0].content"),
        ({"stop": "\ud83d"}, "stop"),
        ({"cache_salt": "\ud83d"}, "cache_salt"),
        ({"stop": ["x"] * 1025}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias." + "9" * 40),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
async def test_what_callers_in_process_get_wrong(adapter: OpenAIAdapter, change: dict[str, Any], param: str) -> None:
    error = await refused(lambda: adapter.chat_completion({**HELLO, **change}))
    assert (error.status, error.param) == (400, param)


async def test_integers_as_keys_of_logit_bias(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    adapter.chat_completion({**HELLO, "logit_bias": {65: -100, "66": 1}})
    assert engine.submitted[-1][1].logit_bias == {65: -100.0, 66: 1.0}


async def test_all_answers_of_a_request_find_a_place_or_none(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    engine.max_queue = 2
    assert (await refused(lambda: adapter.achat_completion({**HELLO, "n": 3}))).code == "queue_full"
    with pytest.raises(ApiError, match="wait already"):
        next(adapter.chat_completion_stream({**HELLO, "n": 3}))
    assert not engine.live


def test_from_many_threads_and_under_a_running_loop(adapter: OpenAIAdapter) -> None:
    def said(word: str) -> str:
        request = {"model": "any", "messages": [{"role": "user", "content": word}]}
        streamed = joined(list(adapter.chat_completion_stream(request)))
        assert adapter.chat_completion(request).choices[0].message.content == streamed
        return streamed

    with ThreadPoolExecutor(8) as pool:
        words = [f"word {at}" for at in range(40)]
        assert list(pool.map(said, words)) == [f"You said: {word}" for word in words]

    async def within() -> str:
        return said("inside")

    assert asyncio.run(within()) == "You said: inside"


def test_interrupting_a_blocking_call_frees_its_work(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    engine.delay, engine.answer = 0.01, "word " * 2000

    def interrupt() -> None:
        while not engine.live:
            time.sleep(0.01)
        # Until the main thread, wherever it was, waits for the answer.
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        adapter.chat_completion(HELLO)
    assert not engine.live


@pytest.mark.parametrize("answers", [1, 3])
async def test_cancelling_and_closing_free_the_work(adapter: OpenAIAdapter, engine: FakeEngine, answers: int) -> None:
    engine.delay, engine.answer = 0.01, "word " * 500
    request = {**HELLO, "n": answers}

    task = asyncio.create_task(adapter.achat_completion(request))
    await asyncio.sleep(0.03)
    assert len(engine.live) == answers
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not engine.live

    stream = adapter.achat_completion_stream(request)
    await anext(stream)
    assert len(engine.live) == answers
    await stream.aclose()
    assert not engine.live

    plain = adapter.chat_completion_stream(request)
    next(plain)
    assert len(engine.live) == answers
    plain.close()
    assert not engine.live


async def test_an_engine_closed_under_its_streams(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    engine.delay = 0.005
    stream = adapter.achat_completion_stream(HELLO)
    await anext(stream)
    engine.close()
    with pytest.raises(ApiError, match="cancelled"):
        [chunk async for chunk in stream]


def test_ids_of_tokens_where_asked_for(adapter: OpenAIAdapter) -> None:
    request = {**HELLO, "return_token_ids": True, "request_id": "mine", "max_tokens": 5}
    whole = adapter.chat_completion(request)
    assert whole.id == "chatcmpl-mine"
    assert bytes(whole.choices[0].token_ids or []).decode() == "You s"
    assert whole.choices[0].logprobs is None
    chunks = list(adapter.chat_completion_stream(request))
    assert chunks[0].prompt_token_ids == whole.prompt_token_ids
    ids = [token for chunk in chunks for token in chunk.choices[0].token_ids or []]
    assert ids == whole.choices[0].token_ids
    text = {"model": "any", "prompt": "abc", "return_token_ids": True, "max_tokens": 5}
    assert adapter.completion(text).choices[0].token_ids == ids
    streamed = [token for chunk in adapter.completion_stream(text) for token in chunk.choices[0].token_ids or []]
    assert streamed == ids


def test_the_stop_text_where_it_is_wanted(adapter: OpenAIAdapter) -> None:
    request = {**HELLO, "stop": " said", "include_stop_str_in_output": True}
    assert adapter.chat_completion(request).choices[0].message.content == "You said"
    assert joined(list(adapter.chat_completion_stream(request))) == "You said"
    assert adapter.chat_completion({**HELLO, "stop": " said"}).choices[0].message.content == "You"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"bad_words": ["x"], "guided_regex": "a"}, "bad_words"),
        ({"request_id": "two words"}, "request_id"),
    ],
)
def test_forms_that_contradict_each_other(adapter: OpenAIAdapter, change: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        adapter.chat_completion({**HELLO, **change})
    assert (refusal.value.status, refusal.value.param) == (400, param)
