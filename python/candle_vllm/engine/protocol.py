"""What the layers above need of an engine and of a request under way; a test's fake implements the same.

Holds no behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from candle_vllm.params import GenerationParams
from candle_vllm.records import CachedPrefix, EngineStats, GenerationChunk, GenerationOutput, ModelInfo

__all__ = ["Engine", "Request"]


class Request(Protocol):
    """One request under way; `RequestHandle` says what each method promises."""

    @property
    def done(self) -> bool:
        """Whether it has ended, read or not."""
        ...

    def cancel(self) -> None:
        """Free its memory now; its reader gets a last chunk."""
        ...

    def close(self) -> None:
        """Free its memory now and drop what was not read."""
        ...

    async def result_async(self) -> GenerationOutput:
        """The whole answer."""
        ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> GenerationChunk: ...


class Engine(Protocol):
    """One loaded model; `InferenceEngine` says what each method promises."""

    @property
    def model_info(self) -> ModelInfo:
        """What was loaded and how it runs."""
        ...

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """Jinja texts by name."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Texts of the special tokens that templates name."""
        ...

    def stats(self) -> EngineStats:
        """Figures of this moment."""
        ...

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text."""
        ...

    def tokenize_parts(self, parts: Sequence[str]) -> list[int]:
        """Token ids of a text in parts; in every other one special tokens spelt out are plain text."""
        ...

    @property
    def special_texts(self) -> Sequence[str]:
        """Texts of all special tokens."""
        ...

    def detokenize(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text."""
        ...

    def check_form(self, params: GenerationParams) -> None:
        """Compile the form that these ask of an answer; a request that has the same finds it compiled."""
        ...

    def cached_prefix(self, tokens: Sequence[int], cache_salt: str | None = None) -> CachedPrefix:
        """What of a prompt the prefix cache holds now."""
        ...

    def add_request(
        self,
        prompt: str | Sequence[int],
        params: GenerationParams | None = None,
        *,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> Request:
        """Submit one request and return at once."""
        ...

    def close(self) -> None:
        """Cancel all requests and give the memory back."""
        ...
