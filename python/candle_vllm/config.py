"""How to load and run one model: EngineConfig. Knows nothing of the engine that will read it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from candle_vllm import checks

__all__ = ["EngineConfig"]

_DTYPES = {
    "auto": "auto",
    "f32": "f32",
    "float32": "f32",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "f16": "f16",
    "float16": "f16",
}
_KV_DTYPES = _DTYPES | {"int8": "int8", "fp8": "fp8", "fp8_e4m3": "fp8"}
_ISQ_TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
_ISQ = {name: name for name in _ISQ_TYPES} | {name.replace("_k", "k"): name for name in _ISQ_TYPES}
_DEVICE = re.compile(r"auto|cpu|metal(:0)?|cuda(:\d{1,3})?")
_I31 = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of an engine. Bad values raise `ConfigError` here, naming the field and the range."""

    model_path: str | os.PathLike[str] = "smollm2"
    """A local folder (safetensors), a `.gguf` file, a Hugging Face id (`org/name` or `org/name:file.gguf`), or the
    alias `smollm2`, the small default."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `metal`."""
    dtype: str = "auto"
    """Arithmetic: `auto` (fast, as the checkpoint allows), `f32` (exact), `bf16`, `f16`; `float32` and so on too."""
    activations: str = "auto"
    """To how many bits activations are rounded that quantised weights meet: `auto` (8, the accuracy that users of
    quantised weights know; 16 where the machine is fastest so), `int8`, or `int16`, which is more accurate. Not with
    `f32`."""
    isq: str | None = None
    """Quantise while loading: matrices that the checkpoint keeps wider become `q4_0`, `q4_1`, `q5_0`, `q5_1`, `q8_0`,
    `q2_k`, `q3_k`, `q4_k`, `q5_k` or `q6_k` (`q4k` and so on too); None = as they are. Of types of up to 4
    bits some matrices keep more, the one into the logits 6 bits at least; rows that do not fill blocks of 256 take the
    next type with blocks of 32."""
    max_batch_size: int = 16
    """Sequences that run at once, from 1."""
    max_sequence_length: int | None = None
    """Longest sequence (prompt and answer) in tokens; None = the model's own limit."""
    kv_cache_memory: int | None = None
    """Bytes for keys and values; None = sized from the model, the batch and the free memory."""
    kv_cache_dtype: str = "auto"
    """How keys and values are kept: `auto` (`bf16`; `f32` where that is the arithmetic), `f32`, `f16`, `bf16`, or in
    half of bf16's memory `int8` or `fp8` (e4m3), each with a scale for a token's key and value in a head. Of the two
    `int8` is nearer to what was computed."""
    enable_chunked_prefill: bool = True
    """Whether a prompt may be computed in pieces beside running decodes."""
    prefill_chunk_size: int = 512
    """Tokens of one step at most, prefill pieces and decodes together, from 1."""
    enable_prefix_cache: bool = True
    """Whether computed prompt blocks are kept and reused by later prompts."""
    speculation: str = "off"
    """`ngram` drafts what may follow from repetitions in prompt and answer, where that pays; answers are the same, bit
    for bit. `off` drafts nothing."""
    threads: int | None = None
    """Compute threads; None = the cores that this process may use."""
    cpu_affinity: str | Sequence[int] | None = None
    """Cores that the compute threads are bound to, one each in turn: `"0-3,8"` or a list; None = where the system
    likes. Becomes a tuple. Without `threads` there is one thread a core."""
    enable_cuda_graph: bool | None = None
    """CUDA graphs: None = as the device likes; True is refused on a device that has none."""
    max_queue: int | None = None
    """Requests that may wait; one more raises `QueueFullError`. None = no limit."""
    background: bool = True
    """Whether the engine runs by itself; False = only when `InferenceEngine.step` is called or a caller waits."""
    generation_config: str = "auto"
    """Sampling where neither a request nor its server says anything: `auto` = as the checkpoint recommends
    (generation_config.json, `general.sampling.*` of a GGUF), `none` = the defaults of `GenerationParams`."""
    chat_template: str | os.PathLike[str] | None = None
    """A file with the Jinja template to use in place of the model's own."""
    weight_file: str | None = None
    """The file to take where a repository or folder holds several, e.g. `model-Q4_K_M.gguf`."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face repository; None = its default branch."""
    hf_token: str | None = field(default=None, repr=False)
    """Token for Hugging Face; None = `HF_TOKEN` or the one that its own tools stored."""
    hf_token_path: str | os.PathLike[str] | None = None
    """A file that holds the token."""

    def __post_init__(self) -> None:
        """Check every field and bring it to its plain type."""
        put = object.__setattr__
        if not isinstance(self.model_path, str | os.PathLike) or not os.fspath(self.model_path):
            checks.refuse("model_path", self.model_path, "a path, a Hugging Face id or an alias")
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            checks.refuse("device", self.device, "auto, cpu, cuda, cuda:N or metal")
        put(self, "dtype", _DTYPES[checks.choice("dtype", self.dtype, _DTYPES)])
        checks.choice("activations", self.activations, ("auto", "int8", "int16"))
        if self.isq is not None:
            put(self, "isq", _ISQ[checks.choice("isq", self.isq, _ISQ)])
        put(self, "max_batch_size", checks.integer("max_batch_size", self.max_batch_size, 1, 65_536))
        longest = checks.optional_integer(
            "max_sequence_length", self.max_sequence_length, 1, _I31, none="the model's own limit"
        )
        put(self, "max_sequence_length", longest)
        memory = checks.optional_integer("kv_cache_memory", self.kv_cache_memory, 1, 2**63 - 1, none="sized by itself")
        put(self, "kv_cache_memory", memory)
        put(self, "kv_cache_dtype", _KV_DTYPES[checks.choice("kv_cache_dtype", self.kv_cache_dtype, _KV_DTYPES)])
        put(self, "prefill_chunk_size", checks.integer("prefill_chunk_size", self.prefill_chunk_size, 1, 2**20))
        checks.choice("speculation", self.speculation, ("off", "ngram"))
        put(self, "threads", checks.optional_integer("threads", self.threads, 1, 1024, none="the cores at hand"))
        put(
            self, "cpu_affinity", None if self.cpu_affinity is None else checks.cores("cpu_affinity", self.cpu_affinity)
        )
        put(self, "max_queue", checks.optional_integer("max_queue", self.max_queue, 0, _I31, none="no limit"))
        if not isinstance(self.chat_template, str | os.PathLike | None) or self.chat_template == "":
            checks.refuse("chat_template", self.chat_template, "the path of a file, or None")
        checks.choice("generation_config", self.generation_config, ("auto", "none"))
        for name in ("enable_chunked_prefill", "enable_prefix_cache", "background"):
            checks.boolean(name, getattr(self, name))
        if self.enable_cuda_graph is not None:
            checks.boolean("enable_cuda_graph", self.enable_cuda_graph)
        for name in ("weight_file", "revision", "hf_token"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                checks.refuse(name, "***" if name == "hf_token" else value, "a text that is not empty, or None")
