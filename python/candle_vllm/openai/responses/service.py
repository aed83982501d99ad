"""Responses: the Responses API over an adapter and a store: made at once or in the background, and asked for later.

Must not know of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Container, Generator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from candle_vllm.generation import Account
from candle_vllm.openai.adapter import OpenAIAdapter, Opened, typed
from candle_vllm.openai.bridge import Bridge
from candle_vllm.openai.endpoint import serialised
from candle_vllm.openai.errors import ApiError, api_error, invalid
from candle_vllm.openai.responses.events import StreamEvent, TextDelta
from candle_vllm.openai.responses.items import MOST_ITEMS, InputItem, fresh_item_id, listed
from candle_vllm.openai.responses.objects import Deleted, InputTokens, ItemList, Response
from candle_vllm.openai.responses.parse import wants_logprobs
from candle_vllm.openai.responses.row import INPUT_TOKENS, RESPONSE
from candle_vllm.openai.responses.store import Record, ResponseStore, Told
from candle_vllm.openai.responses.types import PromptRequest, ResponsesRequest
from candle_vllm.openai.responses.writer import ResponseWriter

__all__ = ["Responses"]

_MOST_BACKGROUND = 256
"""Responses in the background at one moment."""
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}

Order = Literal["asc", "desc"]
Asked = ResponsesRequest | Mapping[str, Any]
RequestT = TypeVar("RequestT", bound=PromptRequest)


class Responses:
    """Makes responses and keeps them.

    The methods whose names begin with ``a``, and those that wait for nothing, are for one event loop, on which what is
    in the background runs too. `create`, `stream`, `start`, `cancel` and `delete` block, with the GIL released, and may
    be called in any thread; they have a loop of their own, so use one kind or the other. Either ends with `aclose` or
    `close`. Whatever is refused or fails raises :class:`ApiError`.

    `owner` names who asks: what one stores is not there for another. `store` is where responses are kept. Of one caller
    `most_of_one` may run in the background at once; None = no bound but that of all callers together.
    """

    def __init__(
        self, adapter: OpenAIAdapter, store: ResponseStore | None = None, *, most_of_one: int | None = None
    ) -> None:
        self.adapter = adapter
        self.store = ResponseStore() if store is None else store
        self._most_of_one = most_of_one
        self._running: dict[asyncio.Task[None], str] = {}
        self._bridge = Bridge()

    # Blocking

    def create(self, request: Asked) -> Response:
        """The whole response."""
        return self._bridge.call(self.acreate(request))

    def stream(self, request: Asked) -> Generator[StreamEvent, None, None]:
        """The events of a response, each as soon as it is there; work begins with the first one asked for."""
        return self._bridge.iterate(self.astream(request))

    def start(self, request: Asked) -> Record:
        """A response in the background, begun and stored."""
        return self._bridge.call(self.astart(request))

    def cancel(self, name: str) -> Record:
        """End a response in the background; one that has ended stays as it is."""
        return self._bridge.call(self.acancel(name))

    def delete(self, name: str) -> Deleted:
        """Store it no longer, and end it where it still runs."""
        return self._bridge.call(self.adelete(name))

    def close(self) -> None:
        """End what the blocking methods began, and their thread."""
        self._bridge.close()

    # Making them

    async def acreate(
        self,
        request: Asked,
        owner: str = "",
        account: Account | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - of one part of the work, not of the call
    ) -> Response:
        """The whole response; `timeout` is how many seconds it may wait for its model."""
        account = account or Account()
        resolved = self._foreground(self._typed(request, account), owner)
        # Log-probabilities can be told from those of calls and thoughts only as they come.
        opened = self.adapter.open(
            RESPONSE, resolved, stream=wants_logprobs(resolved), account=account, timeout=timeout
        )
        writer = _writer(opened)
        try:
            async for event in opened.events:
                writer.chunks(event)
        except Exception as error:
            raise api_error(error) from error
        finally:
            await opened.events.aclose()
        self._keep(resolved, owner, writer.response)
        return writer.response

    async def astream(self, request: Asked) -> AsyncGenerator[StreamEvent, None]:
        """The events of a response, each as soon as it is there; a failure on the way is the last of them."""
        account = Account()
        opened = self.open(self._typed(request, account), account=account)
        writer = _writer(opened)
        try:
            async for event in opened.events:
                for chunk in writer.chunks(event):
                    yield chunk
        except Exception as error:
            if not writer.begun:
                raise api_error(error) from error
            for chunk in writer.failing(api_error(error)):
                yield chunk
        finally:
            await opened.events.aclose()

    def _typed(self, request: Asked, account: Account) -> ResponsesRequest:
        return typed(ResponsesRequest, request, self.adapter.warnings_of(RESPONSE, account))

    def open(
        self,
        request: ResponsesRequest,
        owner: str = "",
        account: Account | None = None,
        timeout: float | None = None,
    ) -> Opened[Response, Any]:
        """A response that streams, before anything of it is under way."""
        resolved = self._foreground(request, owner)
        opened = self.adapter.open(RESPONSE, resolved, stream=True, account=account, timeout=timeout)
        _writer(opened).ended = lambda response: self._keep(resolved, owner, response)
        return opened

    def _foreground(self, request: ResponsesRequest, owner: str) -> ResponsesRequest:
        if request.background:
            raise invalid("background", "A response in the background is begun with 'start'.")
        return self.resolved(request, owner)

    async def astart(self, request: Asked, owner: str = "", account: Account | None = None, caller: str = "") -> Record:
        """A response in the background, begun and stored. `account` is of its own, not of the call."""
        if not self.store.most:
            raise invalid("background", "No responses are stored here, so none can run in the background.")
        account = account or Account()
        checked = self._typed(request, account)
        resolved = self.resolved(checked.model_copy(update={"background": True}), owner)
        streams = bool(resolved.stream)
        opened = self.adapter.open(RESPONSE, resolved, stream=streams, account=account)
        writer = _writer(opened)
        writer.response.model = resolved.model or next(iter(self.adapter.model_names), "")
        record = Record(owner, writer.response, _context(resolved), streams=streams)
        record.tell(map(_told, writer.queue()))
        self._check_room(caller)
        if not self.store.put(record):
            raise _busy(len(self._running))
        record.task = asyncio.create_task(self._work(record, opened))
        self._running[record.task] = caller
        record.task.add_done_callback(lambda task: self._settle(record, writer, task))
        return record

    def _check_room(self, caller: str) -> None:
        if len(self._running) >= _MOST_BACKGROUND:
            raise _busy(len(self._running))
        own = sum(each == caller for each in self._running.values())
        if self._most_of_one is not None and own >= self._most_of_one:
            raise ApiError(
                f"You have {own} responses in the background, which is as many as you may have at once.",
                code="concurrency_limit_exceeded",
                status=429,
                type="rate_limit_error",
                retry_after=1,
            )

    async def _work(self, record: Record, opened: Opened[Response, Any]) -> None:
        writer = _writer(opened)
        try:
            async for event in opened.events:
                if (quick := writer.quick(event)) is not None:
                    record.tell([(TextDelta.TYPE, quick)])
                else:
                    record.tell(map(_told, writer.chunks(event)))
        except Exception as error:
            record.tell(map(_told, writer.failing(api_error(error))))
        finally:
            await opened.events.aclose()

    def _settle(self, record: Record, writer: ResponseWriter, task: asyncio.Task[None]) -> None:
        """It has ended, well or not; one that was cancelled may never have begun."""
        self._running.pop(task, None)
        record.task = None
        if record.running:
            writer.cancel()
        record.settle()
        if self.store.holds(record):
            self.store.put(record)

    def _keep(self, request: ResponsesRequest, owner: str, response: Response) -> None:
        """Store a response that was not in the background, and have it say so where that cannot be done."""
        if response.store:
            response.store = self.store.put(Record(owner, response, _context(request)))

    def resolved(self, request: RequestT, owner: str = "") -> RequestT:
        """The request with all that was said before it; each item has an id, and none refers to another."""
        history: Sequence[InputItem] = ()
        if request.previous_response_id:
            history = self._previous(request.previous_response_id, owner).said
        taken = {item.id for item in history}
        items = []
        for at, item in enumerate(request.items):
            items.append(_named(self._found(item, owner, f"input[{at}]"), taken))
            taken.add(items[-1].id)
        if len(history) + len(items) > MOST_ITEMS:
            raise invalid("input", f"The conversation has {len(history) + len(items)} items, above {MOST_ITEMS}.")
        return request.after(history, items)

    def _previous(self, name: str, owner: str) -> Record:
        try:
            record = self.store.get(name, owner)
        except ApiError as error:
            raise ApiError(
                f"Previous response with id '{name[:200]}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from error
        if record.running:
            raise invalid("previous_response_id", f"The response '{name}' is still under way.")
        return record

    def _found(self, item: InputItem, owner: str, place: str) -> InputItem:
        """The item, or the one that it refers to."""
        if item.type != "item_reference":
            return item
        found = self.store.item(item.id or "", owner)
        if found is None:
            problem = f"Item with id '{item.id}' not found. Items are stored with their responses alone."
            raise ApiError(problem, param=f"{place}.id", code="item_not_found", status=404)
        return found

    async def acount(self, request: PromptRequest, owner: str = "") -> InputTokens:
        """Tokens of the prompt that a request comes to."""
        return await self.adapter.aquery(INPUT_TOKENS, self.resolved(request, owner))

    # Those that are stored

    def get(self, name: str, owner: str = "") -> Record:
        """A stored response; raises a 404 for one that is not, or is another's."""
        return self.store.get(name, owner)

    async def acancel(self, name: str, owner: str = "") -> Record:
        """End a response in the background; one that has ended stays as it is."""
        record = self.get(name, owner)
        if not record.background:
            raise ApiError("Cannot cancel a synchronous response.", param="response_id", code="invalid_value")
        await self._end(record)
        return record

    async def adelete(self, name: str, owner: str = "") -> Deleted:
        """Store it no longer, and end it where it still runs."""
        record = self.get(name, owner)
        self.store.drop(record)
        await self._end(record)
        return Deleted(id=name, object="response", deleted=True)

    async def _end(self, record: Record) -> None:
        task = record.task
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            # What settles it is called after those who wait.
            await asyncio.sleep(0)

    def input_items(
        self, name: str, owner: str = "", *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> ItemList:
        """A page of the items that a response was made from: `limit` of them behind the item `after`."""
        items = list(self.get(name, owner).context)
        if order == "desc":
            items.reverse()
        begin = 0
        if after is not None:
            places = [at for at, item in enumerate(items) if item.id == after]
            if not places:
                raise invalid("after", f"'after' is the id of no item of this response: '{after[:200]}'.")
            begin = places[0] + 1
        page = [listed(item) for item in items[begin : begin + limit]]
        return ItemList(
            object="list",
            data=page,
            first_id=page[0]["id"] if page else None,
            last_id=page[-1]["id"] if page else None,
            has_more=begin + limit < len(items),
        )

    async def aclose(self) -> None:
        """End all that runs in the background."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _told(event: StreamEvent) -> Told:
    return event.type, serialised(event)


def _busy(running: int) -> ApiError:
    return ApiError(
        f"{running} responses run in the background, and there is no room for one more; try again later.",
        code="queue_full",
        status=503,
        type="server_busy",
        retry_after=1,
        extra={"queued": False},
    )


def _writer(opened: Opened[Response, Any]) -> ResponseWriter:
    assert isinstance(opened.writer, ResponseWriter)
    return opened.writer


def _named(item: InputItem, taken: Container[str | None]) -> InputItem:
    """The item with an id that no other of its conversation has."""
    if item.id is not None and item.id not in taken:
        return item
    return item.model_copy(update={"id": fresh_item_id(_PREFIXES.get(item.type, "item"))})


def _context(request: PromptRequest) -> list[InputItem]:
    return [*(request.history or ()), *request.items]
