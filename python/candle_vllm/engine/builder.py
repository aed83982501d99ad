"""EngineBuilder: the settings of an engine, one call each. Knows nothing of what they do."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from candle_vllm.config import EngineConfig

if TYPE_CHECKING:
    from candle_vllm.engine.inference import InferenceEngine

__all__ = ["EngineBuilder"]


class EngineBuilder:
    """Collects settings; `build` checks them, fetches the model where needed, and loads it.

    Every method but `build` gives the builder back. What each setting means stands at the field of the same name
    of `EngineConfig`.
    """

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._progress: Callable[[str, int, int], None] | None = None

    def _set(self, field: str, value: object) -> Self:
        self._settings[field] = value
        return self

    def model_path(self, model: str | os.PathLike[str]) -> Self:
        """A local folder, a `.gguf` file, a Hugging Face id, or the alias `smollm2`."""
        return self._set("model_path", model)

    def device(self, device: str) -> Self:
        """`auto`, `cpu`, `cuda:N` or `metal`."""
        return self._set("device", device)

    def dtype(self, dtype: str) -> Self:
        """`auto`, `f32`, `bf16` or `f16`."""
        return self._set("dtype", dtype)

    def activations(self, bits: str) -> Self:
        """`auto`, `int8` or `int16`."""
        return self._set("activations", bits)

    def isq(self, kind: str | None) -> Self:
        """`q4_0`, `q4_k` ...: quantise while loading."""
        return self._set("isq", kind)

    def max_batch_size(self, sequences: int) -> Self:
        """Sequences that run at once."""
        return self._set("max_batch_size", sequences)

    def max_sequence_length(self, tokens: int | None) -> Self:
        """Longest sequence, prompt and answer."""
        return self._set("max_sequence_length", tokens)

    def kv_cache_memory(self, size: int | None) -> Self:
        """Bytes for keys and values."""
        return self._set("kv_cache_memory", size)

    def kv_cache_dtype(self, dtype: str) -> Self:
        """`auto`, `f32`, `f16`, `bf16`, `int8` or `fp8`."""
        return self._set("kv_cache_dtype", dtype)

    def enable_chunked_prefill(self, enabled: bool = True) -> Self:
        """Whether a prompt may be computed in pieces beside running decodes."""
        return self._set("enable_chunked_prefill", enabled)

    def prefill_chunk_size(self, tokens: int) -> Self:
        """Tokens of one step at most."""
        return self._set("prefill_chunk_size", tokens)

    def enable_prefix_cache(self, enabled: bool = True) -> Self:
        """Whether computed prompt blocks are kept for later prompts."""
        return self._set("enable_prefix_cache", enabled)

    def speculation(self, mode: str) -> Self:
        """`ngram` drafts what may follow from the text's own repetitions; `off` does not."""
        return self._set("speculation", mode)

    def threads(self, count: int | None) -> Self:
        """Compute threads."""
        return self._set("threads", count)

    def cpu_affinity(self, cores: str | Sequence[int] | None) -> Self:
        """Cores that the compute threads are bound to."""
        return self._set("cpu_affinity", cores)

    def enable_cuda_graph(self, enabled: bool | None = True) -> Self:
        """CUDA graphs; refused when true on a device that has none."""
        return self._set("enable_cuda_graph", enabled)

    def max_queue(self, requests: int | None) -> Self:
        """Requests that may wait; one more raises `QueueFullError`."""
        return self._set("max_queue", requests)

    def background(self, enabled: bool) -> Self:
        """Whether the engine runs by itself or only when stepped."""
        return self._set("background", enabled)

    def generation_config(self, source: str) -> Self:
        """`auto` (the checkpoint's recommendation) or `none`."""
        return self._set("generation_config", source)

    def chat_template(self, path: str | os.PathLike[str] | None) -> Self:
        """A file with the Jinja template to use in place of the model's own."""
        return self._set("chat_template", path)

    def weight_file(self, name: str | None) -> Self:
        """The file to take where a repository or folder holds several."""
        return self._set("weight_file", name)

    def revision(self, revision: str | None) -> Self:
        """Branch, tag or commit of a Hugging Face repository."""
        return self._set("revision", revision)

    def hf_token(self, token: str | None) -> Self:
        """Token for Hugging Face."""
        return self._set("hf_token", token)

    def hf_token_path(self, path: str | os.PathLike[str] | None) -> Self:
        """A file that holds the token for Hugging Face."""
        return self._set("hf_token_path", path)

    def progress(self, report: Callable[[str, int, int], None] | None) -> Self:
        """Called as `report(stage, done, total)` while the model is fetched and loaded; `total` 0 = not known."""
        self._progress = report
        return self

    def build(self) -> "InferenceEngine":
        """Check the settings and load the model. Raises as `InferenceEngine` does."""
        from candle_vllm.engine.inference import InferenceEngine

        return InferenceEngine(EngineConfig(**self._settings), progress=self._progress)
