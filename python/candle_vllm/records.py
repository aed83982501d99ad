"""What the engine hands out: outputs, chunks, log-probabilities and figures. Plain data, made here and nowhere else.

The conversion from native events stands in `engine/collect.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "CachedPrefix",
    "EngineStats",
    "FinishReason",
    "GenerationChunk",
    "GenerationOutput",
    "GenerationStats",
    "ModelInfo",
    "ModelReport",
    "StepReport",
    "TokenLogprob",
]


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    """An end-of-sequence id or a stop id."""
    LENGTH = "length"
    """`max_tokens` or the longest sequence was reached."""
    STOP_SEQUENCE = "stop_sequence"
    """A stop text was found; it is not part of the answer."""
    CANCELLED = "cancelled"
    """Cancelled by its caller, or the engine was closed."""
    ERROR = "error"
    """Failed; `stop_reason` holds the message."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-softmax of the raw logits (before temperature and penalties) at one token."""

    token_id: int
    logprob: float
    """Natural logarithm of the token's probability."""
    top: list[tuple[int, float]] = field(default_factory=list)
    """(token id, logprob) of the likeliest tokens, best first, as many as were asked for."""


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """What of a prompt the prefix cache holds."""

    tokens: int
    """From its start, that need not be computed: whole blocks."""
    diverges_at: int | None = None
    """Index of the first token that differs from the cached text with most in common; None where no cached text goes on
    otherwise."""


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Figures of one request. Times are in seconds."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values came from the prefix cache."""
    generated_tokens: int
    queue_time: float
    """From submission to the first step that held a token of this request."""
    prefill_time: float
    """From there to the first generated token."""
    total_time: float
    """From submission to the end."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second since the request left the queue; 0.0 when none was generated."""
        running = self.total_time - self.queue_time
        return self.generated_tokens / running if self.generated_tokens and running > 0 else 0.0


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """What a stream yields: everything that became certain since the last chunk, usually one token's worth.

    `text` is whole characters only, and never part of a stop text; it may be empty while `token_ids` is not.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    """One a token of this chunk, when asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """On one early chunk, when asked for: one a prompt token, the first None."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk."""
    stop_reason: str | int | None = None
    """With `finish_reason`: the stop text or id that hit, or the error's message."""
    stats: GenerationStats | None = None
    """Set on the last chunk."""


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """The whole answer to one prompt."""

    prompt_tokens: list[int]
    """Token ids of the prompt as the model saw it."""
    tokens: list[int]
    """Generated token ids, the one that stopped included."""
    text: str
    finish_reason: FinishReason
    stop_reason: str | int | None
    """The stop text or id that hit, or the error's message."""
    logprobs: list[TokenLogprob] | None
    """One a generated token, when asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None
    """One a prompt token and the first None, when asked for."""
    stats: GenerationStats


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Figures of an engine after its latest step; counters run from its start."""

    running: int
    """Requests that hold KV blocks and take part in steps."""
    waiting: int
    """Requests that wait to be admitted, or admitted again."""
    kv_blocks_total: int
    """Blocks of the KV cache."""
    kv_blocks_free: int
    """Blocks that no request uses; those that the prefix cache keeps count as free, for they can be taken back."""
    kv_blocks_cached: int = 0
    """Blocks with content that later prompts may reuse, in use or not."""
    steps: int = 0
    """Steps computed."""
    prompt_tokens: int = 0
    """Prompt tokens of admitted requests, cached ones included."""
    prefix_hit_tokens: int = 0
    """Of these, tokens taken from the prefix cache."""
    generated_tokens: int = 0
    """Tokens generated."""
    drafted_tokens: int = 0
    """Tokens drafted by speculation."""
    kept_tokens: int = 0
    """Of these, tokens that came true."""
    finished: int = 0
    """Requests that ended, for whatever reason."""
    preemptions: int = 0
    """Requests that lost their blocks to others and were computed again."""
    aborts: int = 0
    """Requests that were cancelled."""
    errors: int = 0
    """Requests that ended with an error."""
    healthy: bool = True
    """False once the engine has failed; then every submission is an error."""
    failure: str | None = None
    """Why it is not healthy."""
    closed: bool = False
    """Whether the engine was closed."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one call of `InferenceEngine.step` did."""

    tokens: int
    """Tokens computed: prompt pieces and decodes."""
    sequences: int
    """Sequences that took part."""
    finished: int
    """Requests that ended."""
    running: int
    """Requests that run after the step."""
    waiting: int
    """Requests that wait after the step."""

    @property
    def has_work(self) -> bool:
        """Whether another step has something to do."""
        return self.running + self.waiting > 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What was loaded and how it runs."""

    name: str
    """The model as the caller named it: id, alias, or the last part of a local path."""
    path: str
    """Where its weights are: a folder or a `.gguf` file."""
    architecture: str
    """As the checkpoint names it, e.g. `LlamaForCausalLM`."""
    layers: int
    """Decoder layers."""
    hidden_size: int
    """Width of the residual stream."""
    vocab_size: int
    """Columns of the logits."""
    max_position: int
    """Longest sequence that the model was made for, in tokens."""
    max_sequence_length: int
    """Longest sequence (prompt and answer) of this engine, in tokens."""
    max_batch_size: int
    """Sequences that run at once."""
    step_tokens: int
    """Tokens of one step at most."""
    block_size: int
    """Tokens of a KV block."""
    kv_blocks: int
    """Blocks of the KV cache."""
    kv_bytes: int
    """Bytes of the KV cache."""
    dtype: str
    """How the weights are computed with: `f32`, `bf16`, `q4_1` and so on."""
    kv_dtype: str
    """How keys and values are kept."""
    parameters: int
    """Number of weights."""
    weight_bytes: int
    """Bytes that the packed weights take."""
    device: str
    """Device and instruction set, e.g. `cpu (avx512)`."""
    threads: int
    """Compute threads."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids that end an answer."""
    bos_token_id: int | None = None
    """Beginning-of-sequence id, if the tokenizer names one."""
    generation_config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Sampling that the model's maker recommends, as far as the checkpoint says: `temperature`, `top_p`, `top_k`,
    `min_p`, `repetition_penalty`, as `GenerationParams` has them. Empty with the setting `generation_config="none"`."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What a model is, whether it would load and whether it would fit, found out without loading it.

    Numbers that are not known for a model that would not load are 0, texts empty. Sizes are in bytes.
    """

    name: str
    """The model as the caller named it: id, alias, or the last part of a local path."""
    path: str
    """Where its weights are: a folder or a `.gguf` file."""
    architecture: str
    """As the checkpoint names it, e.g. `LlamaForCausalLM`."""
    max_position: int
    """Longest sequence that the model was made for, in tokens."""
    file_bytes: int
    """Of the weight files."""
    problems: tuple[str, ...] = ()
    """What is not supported and why; empty where the model would load."""
    parameters: int = 0
    """Number of weights."""
    weight_types: Mapping[str, int] = field(default_factory=dict, hash=False)
    """How many weights of matrices are stored in each type (`q4_k`, `bf16` ...)."""
    layers: int = 0
    """Decoder layers."""
    hidden_size: int = 0
    """Width of the residual stream."""
    vocab_size: int = 0
    """Columns of the logits."""
    dtype: str = ""
    """How the weights would be computed with."""
    kv_dtype: str = ""
    """How keys and values would be kept."""
    device: str = ""
    """Device and instruction set that it would run on."""
    context: int = 0
    """Tokens of one sequence, for which the sizes below are: what was asked for, else `max_position`."""
    weight_bytes: int = 0
    """Packed weights."""
    kv_bytes: int = 0
    """Keys and values of one sequence of `context` tokens."""
    activation_bytes: int = 0
    """Activations and logits of one step."""
    available_bytes: int = 0
    """What this process may still use."""
    fits: bool = False
    """Whether there is room for weights, activations and one sequence of `context` tokens."""
    longest_that_fits: int = 0
    """Tokens of the longest sequence there is room for, at most `max_position`; 0 = not even for the weights."""
    tokens: int = 0
    """Entries of the tokenizer's vocabulary."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids that end an answer."""
    bos_token_id: int | None = None
    """Beginning-of-sequence id, if the tokenizer names one."""
    chat_templates: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Chat templates (Jinja) by name; `default` is the usual one."""
    generation_config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Sampling that the model's maker recommends."""

    @property
    def memory_bytes(self) -> int:
        """Weights, activations and one sequence of `context` tokens."""
        return self.weight_bytes + self.kv_bytes + self.activation_bytes
