"""What the form of an answer is to the engine: one constraint from the request's own and from its tools.

Alone knows both. Must not know how constraints are enforced.
"""

from __future__ import annotations

from typing import Any

from candle_vllm.errors import ConfigError
from candle_vllm.generation.request import Constraint, Conversation, GenerationRequest, ToolUse
from candle_vllm.models import LoadedModel
from candle_vllm.structured import StructuredOutput
from candle_vllm.tools import Tools

__all__ = ["constraint_fields", "may_be_free"]


def constraint_fields(request: GenerationRequest, model: LoadedModel, thinking: bool, free: bool) -> dict[str, Any]:
    """The fields of `GenerationParams` that hold the answer to its form; none where it is free.

    `thinking`: the prompt ends within the model's thinking, which no form binds. `free`: calls that the request leaves
    to the model need not be held to their schemas.
    """
    use, form = request.tool_use, request.constraint
    if form is not None:
        if use is not None and use.choice != "auto":
            raise request.refusal("tool_choice", "cannot be enforced together with a form of the answer's text.")
        return {"structured_output": _of_text(request, form, model, thinking)}
    if use is None or (free and may_be_free(request)):
        return {}
    return {"grammar": _of_calls(request, use, model, thinking)}


def may_be_free(request: GenerationRequest) -> bool:
    """Whether nothing that was asked for demands a form: calls are left to the model and no tool is strict."""
    use = request.tool_use
    return request.constraint is None and (
        use is None or (use.choice == "auto" and not any(tool.strict for tool in Tools(use.tools)))
    )


def _of_calls(request: GenerationRequest, use: ToolUse, model: LoadedModel, thinking: bool) -> str:
    """Free text in which a call, once begun, is whole and fits its tool; or a call alone where one must be made."""
    form = model.tool_format
    known = [tool for tool in Tools(use.tools) if use.allowed is None or tool.name in use.allowed]
    span, marks = None, form.marks
    if isinstance(request.input, Conversation) and model.reasoning.marks:
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
