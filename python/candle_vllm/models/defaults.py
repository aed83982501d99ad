"""SamplingDefaults: what a request gets that leaves a sampling field out. Must not know of requests."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

__all__ = ["SamplingDefaults"]


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request that is silent on a field gets; None leaves the field at the API's own default."""

    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_k: int | None = None
    """0 = all tokens, whatever others say."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None

    def named(self) -> dict[str, Any]:
        """The fields that are set, by name, as `GenerationParams` takes them."""
        return {**self._set(), **({"top_k": None} if self.top_k == 0 else {})}

    def over(self, others: SamplingDefaults) -> SamplingDefaults:
        """These, and where they are silent the others."""
        return SamplingDefaults(**{**others._set(), **self._set()})

    def _set(self) -> dict[str, Any]:
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}
