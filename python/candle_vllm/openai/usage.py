"""The usage that replies report, from the figures of their request."""

from __future__ import annotations

from candle_vllm.generation import Account
from candle_vllm.openai.chat_types import CompletionTokensDetails, CompletionUsage, PromptTokensDetails

__all__ = ["usage_of"]


def usage_of(account: Account) -> CompletionUsage:
    """Tokens so far, over all answers; each prompt counts once."""
    return CompletionUsage(
        prompt_tokens=account.prompt_tokens,
        completion_tokens=account.generated_tokens,
        total_tokens=account.prompt_tokens + account.generated_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=account.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=account.reasoning_tokens),
    )
