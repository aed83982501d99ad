"""What is generated on the tiny model: outputs, chunks, log-probabilities, every parameter's way to the engine."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_vllm import (
    ConfigError,
    FinishReason,
    GenerationParams,
    InferenceEngine,
    TokenizationError,
    TokenLogprob,
)

GREEDY = GenerationParams(max_tokens=12, temperature=0, ignore_eos=True)


def test_greedy_tokens_are_the_references(tiny_engine: InferenceEngine, goldens: Path) -> None:
    reference = np.load(goldens / "hf" / "llama" / "reference.npz")
    params = GenerationParams(max_tokens=16, temperature=0, ignore_eos=True)
    for k in range(3):
        output = tiny_engine.generate(reference[f"prompt_{k}"], params)
        for token, wanted, margin in zip(
            output.tokens, reference[f"greedy_{k}"], reference[f"margin_{k}"], strict=True
        ):
            if token != wanted:
                assert margin < 1e-2
                break


def test_prompt_logprobs_are_the_references(tiny_engine: InferenceEngine, goldens: Path) -> None:
    reference = np.load(goldens / "hf" / "llama" / "reference.npz")
    output = tiny_engine.generate(reference["prompt_2"], GenerationParams(max_tokens=0, prompt_logprobs=3))
    assert output.prompt_logprobs is not None
    first, *rest = output.prompt_logprobs
    assert first is None
    assert [entry.token_id for entry in rest if entry] == list(reference["prompt_2"][1:])
    np.testing.assert_allclose([entry.logprob for entry in rest if entry], reference["logprobs_2"], atol=2e-3)
    assert all(entry and len(entry.top) == 3 for entry in rest)
    assert output.tokens == []


def test_an_output_is_complete(tiny_engine: InferenceEngine) -> None:
    output = tiny_engine.generate("hello", GREEDY)
    assert output.prompt_tokens == tiny_engine.tokenize("hello", add_special_tokens=True)
    assert len(output.tokens) == 12
    assert output.text == tiny_engine.detokenize(output.tokens)
    assert output.finish_reason is FinishReason.LENGTH
    assert str(output.finish_reason) == "length"
    assert output.stop_reason is None
    assert output.logprobs is None
    assert output.prompt_logprobs is None
    stats = output.stats
    assert (stats.prompt_tokens, stats.generated_tokens) == (len(output.prompt_tokens), 12)
    assert 0 <= stats.queue_time <= stats.queue_time + stats.prefill_time <= stats.total_time
    assert stats.tokens_per_second > 0


def test_chunks_add_up_to_the_output(tiny_engine: InferenceEngine) -> None:
    # Long enough that no reader is so late as to find all of it at once.
    params = GenerationParams(max_tokens=480, temperature=1.5, seed=3, logprobs=1, prompt_logprobs=0, ignore_eos=True)
    whole = tiny_engine.generate("abc", params)
    chunks = list(tiny_engine.stream("abc", params))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.tokens
    assert [entry for chunk in chunks for entry in chunk.logprobs or []] == whole.logprobs
    assert [chunk.prompt_logprobs for chunk in chunks if chunk.prompt_logprobs] == [whole.prompt_logprobs]
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == [FinishReason.LENGTH]
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert chunks[-1].stats is not None
    assert len(chunks) > 1


def test_logprobs(tiny_engine: InferenceEngine) -> None:
    vocabulary = tiny_engine.model_info.vocab_size
    ask = {"max_tokens": 4, "temperature": 0.0, "ignore_eos": True}
    full = tiny_engine.generate([5, 6], GenerationParams(**ask, logprobs=-1)).logprobs  # type: ignore[arg-type]
    assert full is not None
    for entry in full:
        assert len(entry.top) == vocabulary
        assert math.fsum(math.exp(logprob) for _, logprob in entry.top) == pytest.approx(1, abs=1e-4)
        assert entry.top == sorted(entry.top, key=lambda pair: -pair[1])
        assert entry.top[0] == (entry.token_id, entry.logprob)
    for k in (0, 5):
        some = tiny_engine.generate([5, 6], GenerationParams(**ask, logprobs=k)).logprobs  # type: ignore[arg-type]
        assert some == [TokenLogprob(entry.token_id, entry.logprob, entry.top[:k]) for entry in full]


def test_a_list_keeps_its_order(tiny_engine: InferenceEngine) -> None:
    prompts = [[i + 3] * (1 + i % 7) for i in range(40)]
    alone = [tiny_engine.generate(prompt, GREEDY).tokens for prompt in prompts]
    together = tiny_engine.generate(prompts, GREEDY)
    assert [output.prompt_tokens for output in together] == prompts
    assert [output.tokens for output in together] == alone


def test_a_list_with_parameters_each(tiny_engine: InferenceEngine) -> None:
    params = [GenerationParams(max_tokens=n, ignore_eos=True) for n in (1, 5, 3)]
    outputs = tiny_engine.generate(["a", "b", "c"], params)
    assert [len(output.tokens) for output in outputs] == [1, 5, 3]
    with pytest.raises(ConfigError, match="got 3 for 2 prompts"):
        tiny_engine.generate(["a", "b"], params)
    with pytest.raises(ConfigError, match="one set of parameters"):
        tiny_engine.generate("a", params)
    nothing: list[str] = []
    assert tiny_engine.generate(nothing, params[0]) == []


def test_a_bar_when_asked_for(tiny_engine: InferenceEngine, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_engine.generate(["a", "b"], GREEDY, progress=True)
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert shown.out == ""
    tiny_engine.generate(["a", "b"], GREEDY)
    assert capsys.readouterr().err == ""


def test_stopping(tiny_engine: InferenceEngine) -> None:
    free = tiny_engine.generate([9, 9], GREEDY)
    stop_id = free.tokens[5]
    place = free.tokens.index(stop_id)
    by_id = tiny_engine.generate(
        [9, 9], GenerationParams(max_tokens=12, temperature=0, stop_token_ids=[stop_id], ignore_eos=True)
    )
    assert (by_id.finish_reason, by_id.stop_reason) == (FinishReason.STOP, stop_id)
    assert by_id.tokens == free.tokens[: place + 1]
    held = tiny_engine.generate(
        [9, 9],
        GenerationParams(max_tokens=12, temperature=0, stop_token_ids=[stop_id], min_tokens=12, ignore_eos=True),
    )
    assert stop_id not in held.tokens
    text = free.text
    start = next(i for i in range(2, len(text)) if text[i].isprintable() and text.index(text[i]) == i)
    by_text = tiny_engine.generate(
        [9, 9], GenerationParams(max_tokens=12, temperature=0, stop_sequences=[text[start]], ignore_eos=True)
    )
    assert (by_text.finish_reason, by_text.stop_reason) == (FinishReason.STOP_SEQUENCE, text[start])
    assert by_text.text == text[:start]


def test_parameters_reach_their_own_row(tiny_engine: InferenceEngine) -> None:
    """Each parameter forces the choice in its own row of one batch, and leaves the others alone."""
    greedy = {"max_tokens": 6, "ignore_eos": True}
    params = [
        GenerationParams(temperature=0, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=0, logit_bias={77: 100}, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=5, top_k=1, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=5, top_p=1e-6, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=5, min_p=1, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=5, seed=1, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=5, seed=2, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=5, seed=1, **greedy),  # type: ignore[arg-type]
        GenerationParams(temperature=0, logit_bias={77: 100}, presence_penalty=2, **greedy),  # type: ignore[arg-type]
    ]
    tokens = [output.tokens for output in tiny_engine.generate([[4, 5, 6]] * len(params), params)]
    assert tokens[1] == [77] * 6
    assert tokens[2] == tokens[3] == tokens[4] == tokens[0]
    assert tokens[5] == tokens[7]
    assert len({tuple(row) for row in (tokens[0], tokens[5], tokens[6])}) == 3
    assert tokens[8] == [77] * 6  # 100 less 2 still leads: the penalty is applied once, not once a token
    strong = GenerationParams(temperature=0, repetition_penalty=100, max_tokens=40, ignore_eos=True)
    drawn = tiny_engine.generate([4, 5, 6], strong).tokens
    assert len(set(drawn)) == len(drawn)
    assert not {4, 5, 6} & set(drawn)


def test_special_tokens_in_the_text(tiny_engine: InferenceEngine) -> None:
    eos = tiny_engine.eos_token_ids[0]
    params = GenerationParams(max_tokens=3, temperature=0, logit_bias={eos: 100}, ignore_eos=True)
    assert tiny_engine.generate("a", params).text == ""
    shown = tiny_engine.generate("a", params, skip_special_tokens=False).text
    assert shown == tiny_engine.special_tokens["eos_token"] * 3
    ended = tiny_engine.generate("a", GenerationParams(max_tokens=3, temperature=0, logit_bias={eos: 100}))
    assert (ended.finish_reason, ended.stop_reason, ended.tokens) == (FinishReason.STOP, eos, [eos]) or (
        ended.finish_reason,
        ended.tokens,
    ) == (FinishReason.STOP, [eos])


@pytest.mark.parametrize(
    ("prompt", "params", "said"),
    [
        ([1, 320], {}, "0 to 319; got 320"),
        ([-1], {}, "0 to"),
        ([2**40], {}, "token ids"),
        ([[]], {}, "at least one token"),
        ([1] * 512, {}, "max_sequence_length 512"),
        ([1], {"logit_bias": {320: 1.0}}, "logit_bias"),
        ([1], {"stop_token_ids": [320]}, "stop_token_ids"),
        ([[1], ["a"]], {}, "a text or a list of token ids"),
        (["a", 1], {}, "a text or a list of token ids"),
        (7, {}, "a text, a list of token ids"),
        (b"abc", {}, "a text, a list of token ids"),
        (bytearray(b"abc"), {}, "a text, a list of token ids"),
        (memoryview(b"abc"), {}, "a text, a list of token ids"),
        ({0: 1, 1: 2}, {}, "a text, a list of token ids"),
        ([[1], b"abc"], {}, "a text or a list of token ids"),
        ([[1], {0: 1}], {}, "a text or a list of token ids"),
        ("\ud83d", {}, "surrogate"),
        (["a", "\ud83d"], {}, "surrogate"),
        (None, {}, "a text, a list of token ids"),
    ],
)
def test_what_cannot_run_is_refused(tiny_engine: InferenceEngine, prompt: object, params: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=said):
        tiny_engine.generate(prompt, GenerationParams(max_tokens=4, **params))  # type: ignore[call-overload]
    assert tiny_engine.stats().running == tiny_engine.stats().waiting == 0


def test_a_refusal_in_a_list_says_where(tiny_engine: InferenceEngine) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_engine.generate([[1], [2], [320]], GREEDY)
    assert any("prompt 2" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"params": {"max_tokens": 3}}, "GenerationParams"),
        ({"cache_salt": 3}, "cache_salt"),
        ({"priority": 1.5}, "priority"),
    ],
)
def test_bad_arguments_are_refused(tiny_engine: InferenceEngine, settings: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=said):
        tiny_engine.generate("a", **settings)


def test_tokens_and_text(tiny_engine: InferenceEngine) -> None:
    ids = tiny_engine.tokenize("hello <|im_start|>")
    assert all(type(token) is int for token in ids)
    assert tiny_engine.detokenize(ids, skip_special_tokens=False) == "hello <|im_start|>"
    assert "<|im_start|>" not in tiny_engine.detokenize(ids)
    assert b"".join(tiny_engine.token_bytes(token) for token in tiny_engine.tokenize("héllo")) == "héllo".encode()
    assert tiny_engine.detokenize([]) == ""
    assert tiny_engine.tokenize("") == []
    for bad in ([-1], ["a"], "ab", b"ab", {0: 1}):
        with pytest.raises((ConfigError, OverflowError)):
            tiny_engine.detokenize(bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="token"):
        tiny_engine.token_bytes(320)
    with pytest.raises(TokenizationError, match="surrogate"):
        tiny_engine.tokenize("\ud83d")
    with pytest.raises(ConfigError, match="text must be a text"):
        tiny_engine.tokenize(b"a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "params", "field", "value"),
    [
        ([1, 320], {}, "prompt", 320),
        ([1] * 512, {}, "prompt", "512 tokens"),
        ([1], {"logit_bias": {320: 1.0}}, "logit_bias", 320),
        ([1], {"stop_token_ids": [321]}, "stop_token_ids", 321),
    ],
)
def test_a_refusal_by_the_core_carries_field_value_and_range(
    tiny_engine: InferenceEngine, prompt: list[int], params: dict[str, Any], field: str, value: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_engine.generate(prompt, GenerationParams(**params))
    error = caught.value
    assert (error.field, error.value) == (field, value)
    assert str(error) == f"{field} must be {error.expected}; got {value}"
    assert error.named("input") == f"input must be {error.expected}; got {value}"


def test_model_info(tiny_engine: InferenceEngine, tiny_model_path: Path) -> None:
    info = tiny_engine.model_info
    assert (info.name, info.path) == ("llama", str(tiny_model_path))
    assert info.architecture == "LlamaForCausalLM"
    assert (info.layers, info.hidden_size, info.vocab_size, info.max_position) == (3, 64, 320, 512)
    assert info.kv_dtype == "f32"
    assert info.threads == 1
    assert info.kv_blocks * info.block_size >= info.max_sequence_length
    assert tiny_engine.eos_token_ids == info.eos_token_ids == (2,)
    assert tiny_engine.chat_template is not None and "<|im_start|>" in tiny_engine.chat_template
    assert tiny_engine.special_tokens["bos_token"] == "<s>"
    assert tiny_engine.bos_token_id == 1
