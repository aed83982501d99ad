"""What all replies and chunks of one request share: id, time, model, fingerprint; and the usage.

Chunks are written as JSON text from constant parts, because one is made for every token of every stream.
Must not know of requests.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quote

from candle_vllm.openai.chat_types import PromptTokensDetails, Usage

__all__ = ["ReplyHead", "UsageCount", "fingerprint_of", "quote"]


def fingerprint_of(*facts: object) -> str:
    """A short text that changes when any of these facts about the system does."""
    return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The fields that stay the same in all chunks of a reply."""

    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, prefix: str, model: str, fingerprint: str) -> ReplyHead:
        """A head with a fresh id that begins with ``prefix``, made now."""
        return cls(f"{prefix}-{secrets.token_hex(16)}", int(time.time()), model, fingerprint)

    def json_start(self, kind: str, more: str = "") -> str:
        """The text of a chunk of object type ``kind`` up to the opening bracket of its choices."""
        return (
            f'{{"id":"{self.id}","object":"{kind}","created":{self.created},"model":{quote(self.model)},'
            f'{more}"system_fingerprint":"{self.fingerprint}","choices":['
        )


@dataclass(slots=True)
class UsageCount:
    """Tokens of one request. ``prompts`` are counted once each, however many answers they get."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached: dict[int, int] = field(default_factory=dict)
    """Cached prompt tokens by answer; of those to one prompt the first counts."""

    def usage(self) -> Usage:
        """The counts in OpenAI's form."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(self.cached.values())),
        )

    def json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.usage().model_dump(), separators=(",", ":"))
