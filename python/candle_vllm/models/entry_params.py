"""What `params` of a catalogue's entry mean: the names are those of the command's flags, with underscores.

Knows nothing of files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from candle_vllm import checks
from candle_vllm.config import EngineConfig
from candle_vllm.errors import ConfigError
from candle_vllm.params import GenerationParams

__all__ = ["PARAMS", "EntryParams"]

_MB = 1024 * 1024


class EntryParams:
    """The settings of one model while its params are read."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.sampling: dict[str, Any] = {}
        """Fields of `SamplingDefaults`."""
        self.block_size: int | None = None

    def put(self, name: str, value: Any) -> None:
        """Take one param, which must be one of `PARAMS`; ConfigError names it and what it may be."""
        if value is not None:
            PARAMS[name](self, name, value)

    def set(self, name: str, **fields: Any) -> None:
        """Put these fields of the configuration; an error of theirs speaks of `name`."""
        try:
            self.config = dataclasses.replace(self.config, **fields)
        except ConfigError as error:
            raise ConfigError(error.named(name), field=name, value=error.value, expected=error.expected) from error


Setter = Callable[[EntryParams, str, Any], None]


def _field(field: str) -> Setter:
    return lambda params, name, value: params.set(name, **{field: value})


def _sampling(params: EntryParams, name: str, value: Any) -> None:
    if name == "top_k" and value in (0, -1):
        params.sampling[name] = 0
        return
    GenerationParams(**{name: value})
    params.sampling[name] = value


def _megabytes(params: EntryParams, name: str, value: Any) -> None:
    params.set(name, kv_cache_memory=checks.integer(name, value, 1, 2**40) * _MB)


def _prefill_chunk(params: EntryParams, name: str, value: Any) -> None:
    size = checks.integer(name, value, 0, 2**31 - 1)
    if size:
        params.set(name, prefill_chunk_size=size, enable_chunked_prefill=True)
    else:
        params.set(name, enable_chunked_prefill=False)


def _block_size(params: EntryParams, name: str, value: Any) -> None:
    params.block_size = checks.integer(name, value, 1, 2**20)


def _off(field: str) -> Setter:
    """A flag that turns the field off."""
    return lambda params, name, value: params.set(name, **{field: not checks.boolean(name, value)})


def _cpu(params: EntryParams, name: str, value: Any) -> None:
    if checks.boolean(name, value):
        params.set(name, device="cpu")


def _device_ids(params: EntryParams, name: str, value: Any) -> None:
    if not isinstance(value, list):
        checks.refuse(name, value, "a list of GPU numbers; an empty one means the CPU")
    ids = [checks.integer(f"{name}[{place}]", one, 0, 999) for place, one in enumerate(value)]
    if len(ids) > 1:
        checks.refuse(name, value, "one number, for a model runs on one device here")
    params.set(name, device=f"cuda:{ids[0]}" if ids else "cpu")


PARAMS: dict[str, Setter] = {
    "dtype": _field("dtype"),
    "activations": _field("activations"),
    "device": _field("device"),
    "device_ids": _device_ids,
    "cpu": _cpu,
    "max_num_seqs": _field("max_batch_size"),
    "max_model_len": _field("max_sequence_length"),
    "mem": _megabytes,
    "kvcache_mem_cpu": _megabytes,
    "kvcache_dtype": _field("kv_cache_dtype"),
    "block_size": _block_size,
    "prefill_chunk_size": _prefill_chunk,
    "disable_prefix_cache": _off("enable_prefix_cache"),
    "disable_cuda_graph": _off("enable_cuda_graph"),
    "speculation": _field("speculation"),
    "threads": _field("threads"),
    "cpu_affinity": _field("cpu_affinity"),
    "revision": _field("revision"),
    "isq": _field("isq"),
    "temperature": _sampling,
    "top_p": _sampling,
    "min_p": _sampling,
    "top_k": _sampling,
    "frequency_penalty": _sampling,
    "presence_penalty": _sampling,
    "repetition_penalty": _sampling,
}
"""Every param and what takes it."""
