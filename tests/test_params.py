import dataclasses
import math
from typing import Any

import pytest

from candle_vllm import ConfigError, GenerationParams


def test_defaults() -> None:
    params = GenerationParams()
    assert dataclasses.asdict(params) == {
        "max_tokens": 256,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": None,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "logit_bias": None,
        "stop_sequences": (),
        "stop_token_ids": (),
        "ignore_eos": False,
        "min_tokens": 0,
        "logprobs": None,
        "prompt_logprobs": None,
        "seed": None,
        "json_schema": None,
        "regex": None,
        "choice": None,
        "grammar": None,
        "structured_output": None,
    }


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_tokens", -1, "at least 0"),
        ("max_tokens", 2.0, "an integer"),
        ("max_tokens", True, "an integer"),
        ("max_tokens", None, "an integer"),
        ("temperature", -0.1, "from 0 to 100"),
        ("temperature", 100.5, "from 0 to 100"),
        ("temperature", math.nan, "from 0 to 100"),
        ("temperature", math.inf, "from 0 to 100"),
        ("temperature", "0.5", "a number"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("top_k", 0, "at least 1"),
        ("top_k", -1, "None (all tokens)"),
        ("min_p", -0.1, "from 0 to 1"),
        ("min_p", 1.1, "from 0 to 1"),
        ("repetition_penalty", 0, "above 0"),
        ("frequency_penalty", 2.5, "from -2 to 2"),
        ("presence_penalty", -2.5, "from -2 to 2"),
        ("logit_bias", {3: 101}, "from -100 to 100"),
        ("logit_bias", {-3: 1}, "token ids from 0"),
        ("logit_bias", {"3": 1}, "token ids from 0"),
        ("logit_bias", {10**5000: 1}, "more digits than can be shown"),
        ("logit_bias", [1], "a mapping"),
        ("stop_sequences", [""], "not empty"),
        ("stop_sequences", [3], "a list of texts"),
        ("stop_sequences", 3, "a list of texts"),
        ("stop_sequences", ["\ud83d"], "without halves of surrogate pairs"),
        ("stop_sequences", ["x"] * 1025, "at most 1024 texts; got 1025"),
        ("stop_token_ids", [1] * 1025, "at most 1024 token ids; got 1025"),
        ("stop_token_ids", [-1], "at least 0"),
        ("stop_token_ids", [2**32], "at most 4294967295"),
        ("stop_token_ids", "5", "a list of token ids"),
        ("ignore_eos", 1, "True or False"),
        ("min_tokens", 257, "at most 256"),
        ("logprobs", -2, "at least -1"),
        ("prompt_logprobs", -2, "at least -1"),
        ("seed", -1, "at least 0"),
        ("seed", 2**64, "at most 18446744073709551615"),
        ("json_schema", 3, "a schema"),
        ("json_schema", {"const": math.nan}, "what JSON can write"),
        ("json_schema", {"const": "x" * 600_000}, "at most 524288 bytes"),
        ("regex", "", "not empty"),
        ("regex", "a" * 600_000, "at most 524288 bytes"),
        ("choice", [], "1 to 4096 texts"),
        ("choice", "yes", "a list of texts"),
        ("choice", [""], "at least one character"),
        ("grammar", b"start: A", "a text"),
        ("structured_output", {"regex": "a"}, "a StructuredOutput"),
    ],
)
def test_a_bad_value_names_field_and_range(field: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GenerationParams(**{field: value})
    assert field in str(caught.value)
    assert said in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert caught.value.field == field
    assert caught.value.expected is not None and caught.value.expected in str(caught.value)
    assert caught.value.named("--flag").startswith("--flag")
    assert len(str(caught.value)) < 250


def test_values_become_plain() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    params = GenerationParams(
        max_tokens=Three(),  # type: ignore[arg-type]
        temperature=1,
        stop_sequences="end",
        stop_token_ids=[Three()],  # type: ignore[list-item]
        logit_bias={Three(): 1},  # type: ignore[dict-item]
        seed=2**64 - 1,
    )
    assert type(params.max_tokens) is int
    assert params.max_tokens == 3
    assert type(params.temperature) is float
    assert params.stop_sequences == ("end",)
    assert params.stop_token_ids == (3,)
    assert params.logit_bias == {3: 1.0}
    assert params.seed == 2**64 - 1


def test_the_callers_lists_are_not_kept() -> None:
    bias = {1: 1.0}
    stops = ["a"]
    params = GenerationParams(logit_bias=bias, stop_sequences=stops)
    bias[2] = 2.0
    stops.append("b")
    assert params.logit_bias == {1: 1.0}
    assert params.stop_sequences == ("a",)


def test_it_is_frozen_and_can_be_varied() -> None:
    params = GenerationParams(seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 2  # type: ignore[misc]
    assert dataclasses.replace(params, seed=2).seed == 2
    with pytest.raises(ConfigError, match="top_p"):
        dataclasses.replace(params, top_p=7)
    with pytest.raises(TypeError):
        GenerationParams(128)  # type: ignore[call-arg]
