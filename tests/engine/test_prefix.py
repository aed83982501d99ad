"""What an engine tells of its prefix cache is what the next request finds there."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from candle_vllm import CachedPrefix, GenerationError, GenerationParams, InferenceEngine

ONE = GenerationParams(max_tokens=1, temperature=0)
PROMPT = [4 + at * 7 % 290 for at in range(100)]


def changed(at: int) -> list[int]:
    return [*PROMPT[:at], 300, *PROMPT[at + 1 :]]


@pytest.mark.parametrize("background", [True, False])
def test_where_a_prompt_leaves_a_cached_one(tiny: Callable[..., InferenceEngine], background: bool) -> None:
    engine = tiny(background=background)
    assert engine.cached_prefix(PROMPT) == CachedPrefix(0)
    engine.generate(PROMPT, ONE)
    assert engine.cached_prefix(PROMPT) == CachedPrefix(96)
    assert engine.cached_prefix([*PROMPT, 5, 6]) == CachedPrefix(96)
    assert engine.cached_prefix(PROMPT[:33]) == CachedPrefix(32)
    # The last token is always computed, so of whole blocks the last one is too.
    assert engine.cached_prefix(PROMPT[:32]) == CachedPrefix(0)
    for at, cached in ((0, 0), (31, 0), (32, 32), (50, 32), (95, 64)):
        assert engine.cached_prefix(changed(at)) == CachedPrefix(cached, at)
    assert engine.cached_prefix(changed(97)) == CachedPrefix(96)
    assert engine.cached_prefix(PROMPT, "salt") == CachedPrefix(0)
    assert engine.cached_prefix([]) == CachedPrefix(0)
    engine.close()
    with pytest.raises(GenerationError, match="closed"):
        engine.cached_prefix(PROMPT)


def test_a_request_finds_what_was_told(tiny: Callable[..., InferenceEngine]) -> None:
    engine, random_ = tiny(), random.Random(7)
    told = []
    for _ in range(60):
        prompt = [4, 5, 6] * random_.randint(5, 40) + [4 + random_.randrange(3) for _ in range(random_.randint(0, 60))]
        salt = random_.choice([None, None, "salt"])
        told.append(engine.cached_prefix(prompt, salt).tokens)
        handle = engine.add_request(prompt, ONE, cache_salt=salt)
        assert handle.result().stats.cached_tokens == told[-1]
    assert len(set(told)) > 3


def test_nothing_is_told_where_nothing_is_kept(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(enable_prefix_cache=False)
    engine.generate(PROMPT, ONE)
    assert engine.cached_prefix(PROMPT) == CachedPrefix(0)
