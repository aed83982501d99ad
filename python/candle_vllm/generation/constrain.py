"""What the form of an answer is to the engine: one constraint from the request's own and from its tools.

Alone knows both. Must not know how constraints are enforced.
"""

from __future__ import annotations

from typing import Any

from candle_vllm.errors import ConfigError
from candle_vllm.generation.request import Constraint, Conversation, GenerationRequest, ToolUse
from candle_vllm.generation.vocabulary import sequences_of, token_grammar
from candle_vllm.models import LoadedModel
from candle_vllm.structured import StructuredOutput
from candle_vllm.tools import Tools

__all__ = ["constraint_fields", "may_be_free"]


def constraint_fields(
    request: GenerationRequest, model: LoadedModel, thinking: bool | None, free: bool
) -> dict[str, Any]:
    """The fields of `GenerationParams` that hold the answer to its form; none where it is free.

    `thinking`: whether the prompt ends within the model's thinking, which no form binds; None: it is behind the model.
    `free`: calls that the request leaves to the model need not be held to their schemas.
    """
    use, form = request.tool_use, request.constraint
    if (field := request.vocabulary_field) is not None:
        if form is not None or not _leaves_calls(use):
            raise request.refusal(field, "cannot be enforced together with a form of the answer or of its calls.")
        return {"grammar": _of_tokens(request, model, field)}
    if form is not None:
        if use is not None and use.choice != "auto":
            raise request.refusal("tool_choice", "cannot be enforced together with a form of the answer's text.")
        return {"structured_output": _of_text(request, form, model, bool(thinking))}
    if use is None or (free and may_be_free(request)):
        return {}
    return {"grammar": _of_calls(request, use, model, thinking)}


def may_be_free(request: GenerationRequest) -> bool:
    """Whether nothing that was asked for demands a form: calls are left to the model and no tool is strict."""
    return request.constraint is None and request.vocabulary_field is None and _leaves_calls(request.tool_use)


def _leaves_calls(use: ToolUse | None) -> bool:
    return use is None or (use.choice == "auto" and not any(tool.strict for tool in Tools(use.tools)))


def _of_tokens(request: GenerationRequest, model: LoadedModel, field: str) -> str:
    """Nothing but the tokens that are allowed, and no word that is bad."""
    allowed = request.allowed_token_ids
    if allowed is not None and max(allowed, default=0) >= model.info.vocab_size:
        raise request.refusal(
            field, f"holds {max(allowed)}; this model's vocabulary ends at {model.info.vocab_size - 1}."
        )
    without = sequences_of(request.bad_words, model.engine.tokenize)
    try:
        return token_grammar(allowed, without, model.info.eos_token_ids)
    except ValueError as error:
        raise request.refusal(field, f"cannot be enforced: {error}.") from error


def _of_calls(request: GenerationRequest, use: ToolUse, model: LoadedModel, thinking: bool | None) -> str:
    """Free text in which a call, once begun, is whole and fits its tool; or a call alone where one must be made."""
    form = model.tool_format
    known = [tool for tool in Tools(use.tools) if use.allowed is None or tool.name in use.allowed]
    span, marks = None, form.marks
    if thinking is not None and isinstance(request.input, Conversation) and model.reasoning.marks:
        span, marks = model.reasoning.span(thinking), (*marks, *model.reasoning.marks)
    try:
        return form.grammar(known, use.choice, use.parallel, model.texts.special_marks(marks), span)
    except ConfigError as error:
        raise request.refusal("tools", f"cannot be enforced: {error}") from error


def _of_text(request: GenerationRequest, form: Constraint, model: LoadedModel, thinking: bool) -> StructuredOutput:
    fields: dict[str, Any] = {form.kind: True if form.kind == "json_object" else form.value}
    if thinking and model.reasoning.answer_after:
        fields["after"] = model.reasoning.answer_after
    try:
        return StructuredOutput(**fields)
    except ConfigError as error:
        raise request.refusal(form.field, f"is wrong: {error}") from error
