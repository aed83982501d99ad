"""Which tokens an answer may consist of: random sequences forbidden, over a real engine whose model is random too."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from candle_vllm import GenerationParams, InferenceEngine
from candle_vllm.generation.vocabulary import MOST_BEGUN, Ids, sequences_of, token_grammar
from candle_vllm.openai import ApiError, OpenAIAdapter


def holds(tokens: Sequence[int], sequence: Ids) -> bool:
    return any(tuple(tokens[at : at + len(sequence)]) == sequence for at in range(len(tokens)))


def written(engine: InferenceEngine, grammar: str, seeds: Sequence[int], most: int = 40) -> list[list[int]]:
    """Answers at a temperature at which anything that may come comes."""
    params = [GenerationParams(max_tokens=most, temperature=5.0, seed=seed, grammar=grammar) for seed in seeds]
    return [output.tokens for output in engine.generate([[1, 2, 3]] * len(params), params)]


@pytest.mark.parametrize("seed", range(6))
def test_no_sequence_is_completed_and_all_else_may_come(tiny_engine: InferenceEngine, seed: int) -> None:
    random_ = random.Random(seed)
    alphabet = random_.sample(range(5, 300), 6)
    without = {tuple(random_.choices(alphabet, k=random_.randint(1, 4))) for _ in range(random_.randint(1, 8))}
    allowed = None if seed % 2 else [*alphabet, 301, 302]
    grammar = token_grammar(allowed, without, tiny_engine.eos_token_ids)
    free = token_grammar(allowed, (), tiny_engine.eos_token_ids)
    for tokens in written(tiny_engine, grammar, range(16)):
        assert allowed is None or set(tokens) <= set(allowed)
        assert not [sequence for sequence in without if holds(tokens, sequence)]
    if allowed is not None:
        # The same model would have written them.
        assert any(holds(tokens, sequence) for tokens in written(tiny_engine, free, range(16)) for sequence in without)


def test_a_beginning_may_stand_and_what_overlaps_is_seen(tiny_engine: InferenceEngine) -> None:
    # From three tokens, without `a b a` and `b a c`: of what is left all else must be possible.
    a, b, c = 10, 11, 12
    without = {(a, b, a), (b, a, c)}
    seen: set[Ids] = set()
    for tokens in written(tiny_engine, token_grammar([a, b, c], without, ()), range(64)):
        seen |= {tuple(tokens[at : at + 3]) for at in range(len(tokens) - 2)}
    possible = {(x, y, z) for x in (a, b, c) for y in (a, b, c) for z in (a, b, c)}
    assert seen == possible - without


def test_an_answer_ends_only_by_a_token_that_is_allowed(tiny_engine: InferenceEngine) -> None:
    [end, *_] = tiny_engine.eos_token_ids
    for allowed, reasons in (([7, 8], {"length"}), ([7, 8, end], {"stop", "length"})):
        grammar = token_grammar(allowed, (), tiny_engine.eos_token_ids)
        params = [GenerationParams(max_tokens=30, temperature=5.0, seed=n, grammar=grammar) for n in range(16)]
        found = tiny_engine.generate([[1, 2]] * 16, params)
        assert {str(output.finish_reason) for output in found} <= reasons
        assert "stop" in {str(output.finish_reason) for output in found} or len(reasons) == 1


def test_words_as_vllm_reads_them() -> None:
    vocabulary = {"bad": [1], " bad": [2], "worse": [3, 4], " worse": [5, 4], "worst": [3, 6], " worst": [7]}
    assert sequences_of(["bad"], vocabulary.__getitem__) == {(1,), (2,)}
    assert sequences_of([" bad"], vocabulary.__getitem__) == {(1,), (2,)}
    assert sequences_of(["worse", "worst"], vocabulary.__getitem__) == {(3, 4), (5, 4), (3, 6)}


def test_what_cannot_be_enforced() -> None:
    with pytest.raises(ValueError, match="no token"):
        token_grammar([1], {(1,)}, ())
    with pytest.raises(ValueError, match="different beginnings"):
        token_grammar(None, {(n, 0) for n in range(1, MOST_BEGUN + 2)}, ())


def test_over_the_api(smollm2_engine: InferenceEngine) -> None:
    ask = {
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        "max_tokens": 24,
    }
    with OpenAIAdapter(smollm2_engine) as adapter:

        def said(**fields: object) -> str:
            request = {**ask, "temperature": 0, **fields}
            whole = adapter.chat_completion(request).choices[0].message.content or ""
            chunks = adapter.chat_completion_stream(request)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
            return whole

        assert "Paris" in said()
        assert "Paris" not in said(bad_words=["Paris"])
        assert "capital of" not in said(bad_words=["capital of", "Paris"])
        letters = smollm2_engine.tokenize("a b c")
        assert set(said(allowed_token_ids=letters)) <= set("abc ")
        refusals: list[tuple[dict[str, object], str]] = [
            ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
            ({"bad_words": ["x"], "guided_regex": "a"}, "bad_words"),
            ({"bad_words": [" "]}, "bad_words"),
            (
                {"bad_words": ["one two three four five six seven"] * 3 + [f"{n} of {n}" for n in range(80)]},
                "bad_words",
            ),
            ({"allowed_token_ids": [504], "bad_words": ["The"]}, "allowed_token_ids"),
        ]
        for fields, param in refusals:
            with pytest.raises(ApiError) as refusal:
                adapter.chat_completion({**ask, **fields})
            assert (refusal.value.status, refusal.value.param) == (400, param)
