"""The routes of responses: made, streamed, asked for again, cancelled, deleted.

Must not know how responses are made or stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from candle_vllm.generation import Account
from candle_vllm.openai.endpoint import serialised
from candle_vllm.openai.errors import invalid, unsupported
from candle_vllm.openai.responses import (
    RESPONSE,
    Deleted,
    ItemList,
    PromptRequest,
    Responses,
    ResponsesRequest,
)
from candle_vllm.openai.responses import Response as Made
from candle_vllm.openai.turns import serialised_in_turns
from candle_vllm.server.bodies import read_typed
from candle_vllm.server.replies import answered, json_reply, unless_gone
from candle_vllm.server.streams import ChunkStream, EventStream
from candle_vllm.server.waiting import patience_of, wants_statuses

__all__ = ["add_responses"]

_PATH = "/v1/responses"
_ONE = _PATH + "/{response_id}"


def add_responses(app: FastAPI, responses: Responses, limit: float | None) -> None:
    """Add the routes. `limit` is how many seconds a request that does not stream may wait for its model."""

    async def create(request: Request) -> Response:
        """Make a response."""
        return await answered(_create(request, responses, limit))

    async def count(request: Request) -> Response:
        """Tokens of the prompt that a request comes to."""
        return await answered(_count(request, responses))

    async def retrieve(
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int | None, Query(ge=0)] = None,
        include_obfuscation: bool = False,
    ) -> Response:
        """A response that is stored, as far as it has come; or its events, those to come included."""
        record = responses.get(response_id, _account(request).key)
        if include_obfuscation:
            raise unsupported("include_obfuscation", "Obfuscation of streams is not supported.")
        if not stream:
            if starting_after is not None:
                raise invalid("starting_after", "'starting_after' is only allowed when 'stream' is enabled.")
            return json_reply(record.text)
        if not record.streams:
            problem = "Only a response in the background that was created with 'stream' can be streamed."
            raise invalid("stream", problem)
        return EventStream(record.events(-1 if starting_after is None else starting_after))

    async def cancel(request: Request, response_id: str) -> Response:
        """End a response in the background."""
        return json_reply((await responses.acancel(response_id, _account(request).key)).text)

    async def delete(request: Request, response_id: str) -> Response:
        """Store a response no longer."""
        return json_reply(serialised(await responses.adelete(response_id, _account(request).key)))

    async def input_items(
        request: Request,
        response_id: str,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        """The items that a response was made from."""
        owner = _account(request).key
        return json_reply(serialised(responses.input_items(response_id, owner, after=after, limit=limit, order=order)))

    rows: Sequence[tuple[str, str, Any, type[BaseModel] | None]] = (
        ("POST", _PATH, create, None),
        ("POST", f"{_PATH}/input_tokens", count, None),
        ("GET", _ONE, retrieve, Made),
        ("DELETE", _ONE, delete, Deleted),
        ("POST", f"{_ONE}/cancel", cancel, Made),
        ("GET", f"{_ONE}/input_items", input_items, ItemList),
    )
    for method, path, answer, reply in rows:
        told: dict[int | str, dict[str, Any]] = {} if reply is None else {200: {"model": reply}}
        if answer is retrieve:
            told[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
        app.add_api_route(path, answer, methods=[method], response_model=None, responses=told)


async def _create(request: Request, responses: Responses, limit: float | None) -> Response:
    account = _account(request)
    typed = await read_typed(request, ResponsesRequest, responses.adapter.warnings_of(RESPONSE, account))
    if typed.background:
        # The work outlives the call, and so does what it costs.
        caller = account.key or (request.client.host if request.client else "")
        record = await responses.astart(typed, account.key, replace(account, finish_reasons=[]), caller)
        return EventStream(record.events()) if typed.stream else json_reply(record.text)
    patience = patience_of(request.headers, None if typed.stream else limit)
    if not typed.stream:
        made = await unless_gone(request.receive, responses.acreate(typed, account.key, account, patience))
        return json_reply(await serialised_in_turns(made))
    opened = responses.open(typed, account.key, account, patience)
    stream = ChunkStream(RESPONSE, opened, statuses=wants_statuses(request.headers))
    await stream.begun(request.receive)
    return stream


async def _count(request: Request, responses: Responses) -> Response:
    typed = await read_typed(request, PromptRequest)
    found = await unless_gone(request.receive, responses.acount(typed, _account(request).key))
    return json_reply(serialised(found))


def _account(request: Request) -> Account:
    return request.scope.get("candle_vllm.account") or Account()
