"""What the form of an answer is to the engine: one constraint from the request's own and from its tools.

Alone knows both. Must not know how constraints are enforced.
"""

from __future__ import annotations

from typing import Any

from candle_vllm.errors import ConfigError
from candle_vllm.generation.request import GenerationRequest
from candle_vllm.models import LoadedModel
from candle_vllm.tools import Tools

__all__ = ["constraint_fields"]


def constraint_fields(request: GenerationRequest, model: LoadedModel) -> dict[str, Any]:
    """The fields of `GenerationParams` that hold the answer to its form; none where it is free."""
    use = request.tool_use
    if use is not None and _enforced(request):
        if request.constraint is not None:
            raise request.refusal("tool_choice", "cannot be enforced together with a form of the answer's text.")
        return {"grammar": _tool_grammar(request, model)}
    return {} if request.constraint is None else _text_fields(request)


def _enforced(request: GenerationRequest) -> bool:
    use = request.tool_use
    return use is not None and (use.choice != "auto" or any(tool.strict for tool in Tools(use.tools)))


def _tool_grammar(request: GenerationRequest, model: LoadedModel) -> str:
    use = request.tool_use
    assert use is not None
    known = [tool for tool in Tools(use.tools) if use.allowed is None or tool.name in use.allowed]
    try:
        special = model.texts.special_marks(model.tool_format.marks)
        return model.tool_format.grammar(known, use.choice, use.parallel, special)
    except ConfigError as error:
        raise request.refusal("tool_choice", f"cannot be enforced: {error}") from error


def _text_fields(request: GenerationRequest) -> dict[str, Any]:
    constraint = request.constraint
    assert constraint is not None
    match constraint.kind:
        case "json_object":
            return {"json_schema": {"type": "object"}}
        case kind:
            return {kind: constraint.value}
