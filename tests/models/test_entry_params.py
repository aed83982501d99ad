"""Every param of a catalogue's entry does something, or says what it may be."""

from __future__ import annotations

from typing import Any

import pytest

from candle_vllm import EngineConfig
from candle_vllm.errors import ConfigError
from candle_vllm.models.entry_params import PARAMS, EntryParams

GOOD: dict[str, Any] = {
    "dtype": "f32",
    "device": "cuda:1",
    "device_ids": [2],
    "cpu": True,
    "max_num_seqs": 3,
    "max_model_len": 100,
    "mem": 7,
    "kvcache_mem_cpu": 8,
    "kvcache_dtype": "f32",
    "block_size": 16,
    "prefill_chunk_size": 64,
    "disable_prefix_cache": True,
    "disable_cuda_graph": True,
    "threads": 2,
    "cpu_affinity": [0, 1],
    "revision": "main",
    "activations": "int16",
    "speculation": "ngram",
    "isq": "q4k",
    "temperature": 0.5,
    "top_p": 0.5,
    "min_p": 0.5,
    "top_k": 5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.5,
}


def made(**values: Any) -> EntryParams:
    """What these params come to."""
    params = EntryParams(EngineConfig())
    for name, value in values.items():
        params.put(name, value)
    return params


@pytest.mark.parametrize("name", PARAMS)
def test_each_acts(name: str) -> None:
    untouched, params = made(), made(**{name: GOOD[name]})
    changed = (params.config, params.sampling, params.block_size)
    assert changed != (untouched.config, untouched.sampling, untouched.block_size)
    nothing = made(**{name: None})
    assert (nothing.config, nothing.sampling) == (untouched.config, untouched.sampling)


# This one may be a text of any kind.
TEXTS = ("revision",)
WRONG: tuple[Any, ...] = ({}, "nonsense", -7, [[]])
BAD = [(name, value) for name in PARAMS for value in WRONG if (value, name in TEXTS) != ("nonsense", True)]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_each_refuses_what_it_may_not_be(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        made(**{name: value})
    assert str(refused.value).startswith(name)
    assert (refused.value.field or name).startswith(name)
