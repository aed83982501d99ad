"""From a chat request to the prompt's text: what the template is given, and what is refused before it runs.

Must not know of sampling or of replies.
"""

from __future__ import annotations

from typing import Any

from candle_vllm.chat import ChatTemplate, ChatTemplates
from candle_vllm.openai.chat_types import ChatCompletionRequest
from candle_vllm.openai.errors import ApiError, invalid, unsupported

# Variables that the renderer itself sets; a request may not replace them.
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})


def refuse_unsupported_chat(request: ChatCompletionRequest) -> None:
    """Raise a 400 for each chat field whose value would change the answer and cannot be honoured."""
    if request.tools and request.tool_choice != "none":
        raise unsupported("tools", "Tool calling is not supported yet; leave 'tools' out or set tool_choice to 'none'.")
    if request.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice", "Tool calling is not supported yet; 'tool_choice' can only be 'none'.")
    if request.functions and request.function_call != "none":
        raise unsupported("functions", "Function calling is not supported yet; leave 'functions' out.")
    if request.function_call not in (None, "none", "auto"):
        raise unsupported("function_call", "Function calling is not supported yet; leave 'function_call' out.")
    _refuse_format(request.response_format)
    if request.modalities is not None and request.modalities != ["text"]:
        raise unsupported("modalities", "Only text is generated; 'modalities' can only be [\"text\"].")
    for field in ("audio", "web_search_options", "moderation"):
        if getattr(request, field) is not None:
            raise unsupported(field, f"'{field}' is not supported.")
    if request.store:
        raise unsupported("store", "Answers are not stored here; leave 'store' false.")
    if request.verbosity not in (None, "medium"):
        raise unsupported("verbosity", "This model has no verbosity setting; leave it at 'medium'.")
    if request.max_tokens == 0:
        raise invalid("max_tokens", "'max_tokens' must be at least 1.")
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.")


def _refuse_format(response_format: dict[str, Any] | None) -> None:
    if response_format is None:
        return
    kind = response_format.get("type")
    if kind in ("json_object", "json_schema"):
        raise unsupported("response_format", f"A response_format of type {kind!r} cannot be enforced yet; use 'text'.")
    if kind != "text":
        raise invalid("response_format.type", "'response_format.type' must be 'text', 'json_object' or 'json_schema'.")


def text_length(request: ChatCompletionRequest) -> int:
    """Characters of the conversation, for a guess at how long its rendering takes."""
    contents = [message.content for message in request.messages if message.content]
    return sum(
        len(content) if isinstance(content, str) else sum(len(part.text or "") for part in content)
        for content in contents
    )


def prompt_text(request: ChatCompletionRequest, templates: ChatTemplates) -> str:
    """The conversation as the model's own template writes it."""
    template = templates.choose()
    continued = bool(request.continue_final_message)
    opens_answer = request.add_generation_prompt
    if continued and opens_answer:
        raise invalid(
            "continue_final_message", "'continue_final_message' and 'add_generation_prompt' exclude each other."
        )
    return template.render(
        [message.model_dump(exclude_none=True) for message in request.messages],
        documents=request.documents,
        add_generation_prompt=not continued if opens_answer is None else opens_answer,
        continue_final_message=continued,
        variables=_variables(request, template),
    )


def _variables(request: ChatCompletionRequest, template: ChatTemplate) -> dict[str, Any]:
    given = dict(request.chat_template_kwargs or {})
    for name in given:
        if name in _RESERVED:
            raise invalid(f"chat_template_kwargs.{name}", f"'{name}' has a field of its own.")
    effort = request.reasoning_effort
    if effort is None:
        return given
    if template.mentions("reasoning_effort"):
        return {"reasoning_effort": effort, **given}
    if template.mentions("enable_thinking"):
        return {"enable_thinking": effort != "none", **given}
    if effort == "none":
        return given
    raise ApiError(
        "This model does not reason before it answers: 'reasoning_effort' can only be 'none'.",
        param="reasoning_effort",
        code="unsupported_parameter",
    )
