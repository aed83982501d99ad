"""The rows of Responses. By itself it stores nothing: who stores asks with a request that knows its history."""

from __future__ import annotations

from pydantic import BaseModel

from candle_vllm.generation import Road
from candle_vllm.generation.prepare import render
from candle_vllm.openai.endpoint import Endpoint, Query
from candle_vllm.openai.errors import unsupported
from candle_vllm.openai.responses.events import AnyEvent
from candle_vllm.openai.responses.objects import InputTokens, Response
from candle_vllm.openai.responses.parse import conversation, parse
from candle_vllm.openai.responses.types import PromptRequest, ResponsesRequest
from candle_vllm.openai.responses.writer import ResponseWriter

__all__ = ["INPUT_TOKENS", "RESPONSE"]

RESPONSE: Endpoint[ResponsesRequest, Response, BaseModel] = Endpoint(
    name="response",
    path="/v1/responses",
    request=ResponsesRequest,
    reply=Response,
    chunk=AnyEvent,
    parse=parse,
    writer=ResponseWriter,
    framing="events",
    warns=True,
)


async def _count(request: PromptRequest, road: Road) -> InputTokens:
    asked = conversation(request)
    if asked.server_tools is not None and asked.server_tools.asked:
        raise unsupported("tools", "The prompts of answers that have tools run here are not counted beforehand.")
    async with road.models.lease(request.model or None) as model:
        rendered = await render(asked, model)
        return InputTokens(object="response.input_tokens", input_tokens=len(rendered.ids))


INPUT_TOKENS = Query(
    name="response_input_tokens",
    path="/v1/responses/input_tokens",
    request=PromptRequest,
    reply=InputTokens,
    answer=_count,
)
