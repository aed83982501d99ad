"""ToolRoad: the road of every request, on which those that ask for tools of MCP servers take several turns.

The model answers, the servers' tools run, their results go back, until an answer needs none of them; a tool that the
client brought ends it, for the client runs that. All of it is one stream of events, as of any other request.
Must not know of request forms, replies or HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from candle_vllm.conversations.events import (
    ConversationFinished,
    ConversationResult,
    ExecutedCall,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnStarted,
)
from candle_vllm.conversations.loop import Step, steps
from candle_vllm.conversations.options import ConversationOptions
from candle_vllm.conversations.tools import Toolbox
from candle_vllm.errors import McpConnectionError, RequestTimeoutError
from candle_vllm.generation import (
    Account,
    Continued,
    Conversation,
    Event,
    Finished,
    FinishText,
    GenerationRequest,
    Observer,
    Road,
    ServerCallArguments,
    ServerCallEnded,
    ServerCallStarted,
    ServerTools,
    Started,
    Status,
    ToolArguments,
    ToolCallStarted,
    ToolUse,
)
from candle_vllm.generation.account import untraced
from candle_vllm.mcp import McpServers
from candle_vllm.models import Models
from candle_vllm.records import GenerationStats

__all__ = ["ToolRoad"]

_SUMMED = ("prompt_tokens", "cached_tokens", "generated_tokens", "reasoning_tokens")


class ToolRoad(Road):
    """A road with the tools of `servers`; `OpenAIAdapter(ToolRoad(models, servers))` has it in this process.

    `options` bound each request's turns and say which tools there are; a request may ask for less. `by_default`: that
    requests which say nothing of such tools have those of all servers. `heard` is told of each call. Each turn is a
    request of its own to observers; a request's own account is the sum. The servers are their owner's to close.
    """

    def __init__(
        self,
        models: Models,
        servers: McpServers,
        options: ConversationOptions | None = None,
        *,
        observers: Sequence[Observer] = (),
        by_default: bool = False,
        heard: Callable[[ExecutedCall], None] = lambda call: None,
    ) -> None:
        super().__init__(models, observers)
        self.servers = servers
        self._options = options or ConversationOptions()
        self._by_default = by_default
        self._heard = heard

    def run(self, request: GenerationRequest, account: Account | None = None) -> AsyncGenerator[Event, None]:
        """As `Road.run`; the turns of a request that has tools of servers follow each other."""
        wanted = request.server_tools
        if wanted is None or not (wanted.asked or (self._by_default and _unable(request) is None)):
            return super().run(request, account)
        return self._turns(request, wanted, account or Account())

    async def _turns(
        self, request: GenerationRequest, wanted: ServerTools, total: Account
    ) -> AsyncGenerator[Event, None]:
        try:
            options = self._bounds(request, wanted)
            await self._check_servers(request, wanted)
            use = request.tool_use
            toolbox = Toolbox(
                self.servers,
                only=wanted.servers,
                allowed=self._options.allowed_tools,
                declared=() if use is None else use.tools,
            )
            model = _Turn(super().run, request, total)
            told = _Telling(toolbox, total)
            assert isinstance(request.input, Conversation)
            async with aclosing(steps(model, toolbox, request.input.messages, options)) as happening:
                async for step in happening:
                    if isinstance(step, ToolReturned):
                        self._heard(step.call)
                    for event in told.events(step):
                        yield event
        except BaseException as error:
            total.error = untraced(error)
            raise

    def _bounds(self, request: GenerationRequest, wanted: ServerTools) -> ConversationOptions:
        """The options of one request. Raises RequestError for what it cannot have."""
        if (problem := _unable(request)) is not None:
            raise request.refusal(*problem)
        most, use = self._options, request.tool_use
        for name in ("max_turns", "max_calls", "max_total_tokens", "timeout"):
            asked, allowed = getattr(wanted, name), getattr(most, name)
            if asked is not None and allowed is not None and asked > allowed:
                raise request.refusal(f"server_tools.{name}", f"is {asked:g}, above the {allowed:g} allowed here.")
        return replace(
            most,
            max_turns=wanted.max_turns or most.max_turns,
            max_calls=wanted.max_calls or most.max_calls,
            max_total_tokens=wanted.max_total_tokens or most.max_total_tokens,
            timeout=wanted.timeout or most.timeout,
            max_generated_tokens=request.max_tokens,
            allowed_tools=wanted.allowed,
            tool_choice="auto" if use is None else use.choice,
            parallel_tool_calls=use is None or use.parallel,
        )

    async def _check_servers(self, request: GenerationRequest, wanted: ServerTools) -> None:
        """Refuse servers that there are not, and those named that do not answer."""
        there = [client.server.name for client in self.servers]
        for name in wanted.servers or ():
            if name not in there:
                known = ", ".join(there) or "none"
                raise request.refusal("server_tools.servers", f"names '{name[:100]}'; there are: {known}.")
        if not wanted.servers:
            return
        await self.servers.tools(only=wanted.servers)
        for status in self.servers.status():
            if status.name in wanted.servers and not self.servers.has_listed(status.name):
                raise McpConnectionError(status.problem or f"MCP server {status.name!r} does not answer")


def _unable(request: GenerationRequest) -> tuple[str, str] | None:
    """The field with which a request cannot have several turns, and why."""
    if request.n > 1:
        return "n", "must be 1 where tools are run here."
    if not isinstance(request.input, Conversation):
        return "server_tools", "needs messages."
    if request.input.continue_final_message or not request.input.add_generation_prompt:
        return "continue_final_message", "cannot be used where tools are run here."
    if request.constraint is not None:
        # It would hold every turn, and leave no room for calls.
        return request.constraint.field, "cannot be held where tools are run here."
    return None


class _Turn:
    """The model of a conversation: each turn takes the road as a request of its own, whose figures `total` sums."""

    def __init__(
        self,
        run: Callable[[GenerationRequest, Account | None], AsyncGenerator[Event, None]],
        request: GenerationRequest,
        total: Account,
    ) -> None:
        self._run = run
        self._asked = request
        self._total = total
        total.stream, total.n, total.answers = request.stream, 1, 1
        total.max_tokens = request.max_tokens

    async def answer(self, request: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """The events of one turn."""
        turn = Account(
            endpoint=self._total.endpoint,
            request_id=self._total.request_id,
            key=self._total.key,
            model=self._total.model,
        )
        before = {name: getattr(self._total, name) for name in _SUMMED}
        try:
            async with aclosing(self._run(self._turn(request), turn)) as events:
                async for event in events:
                    self._sum(before, turn)
                    yield event
        finally:
            # A turn that never began, since its prompt was too long, counts for nothing.
            self._sum(before, turn if turn.generated_tokens else Account())

    def _turn(self, request: Mapping[str, Any]) -> GenerationRequest:
        """The request as it came, with the messages and tools of this turn."""
        asked, tools = self._asked, request.get("tools", ())
        assert isinstance(asked.input, Conversation)
        left = None if asked.max_tokens is None else asked.max_tokens - self._total.generated_tokens
        use, choice = asked.tool_use, _choice(request)
        if choice not in ("auto", *(("required",) if tools else ()), *(tool["function"]["name"] for tool in tools)):
            raise asked.refusal("tool_choice", f"asks for '{choice}'; there is no such tool now.")
        return replace(
            asked,
            input=replace(asked.input, messages=request["messages"]),
            tool_use=ToolUse(
                tools=tools,
                choice=choice,
                allowed=None if use is None else use.allowed,
                parallel=use is None or use.parallel,
            )
            if tools
            else None,
            max_tokens=left,
            server_tools=None,
        )

    def _sum(self, before: Mapping[str, int], turn: Account) -> None:
        total = self._total
        for name in _SUMMED:
            setattr(total, name, before[name] + getattr(turn, name))
        total.model = turn.model or total.model
        total.submitted = total.submitted or turn.submitted
        total.first_token_at = total.first_token_at or turn.first_token_at
        total.last_token_at = turn.last_token_at or total.last_token_at
        total.queue_time = max(total.queue_time, turn.queue_time)
        total.prefill_time = max(total.prefill_time, turn.prefill_time)
        total.finish_reasons = turn.finish_reasons or total.finish_reasons


def _choice(request: Mapping[str, Any]) -> str:
    choice = request.get("tool_choice", "auto")
    return choice if isinstance(choice, str) else str(choice["function"]["name"])


class _Telling:
    """What happens in a conversation as the events of one answer: turns of it, calls here apart from the client's."""

    def __init__(self, toolbox: Toolbox, total: Account) -> None:
        self._toolbox = toolbox
        self._total = total
        self._started = False
        self._finished: Finished | None = None
        self._places: list[tuple[bool, int]] = []
        """Of each call of the turn: whether it is the client's, and its number among those or among the others."""
        self._running: deque[int] = deque()
        self._counts = {True: 0, False: 0}
        self._told = 0
        """Calls whose end was told."""

    def events(self, step: Step) -> Sequence[Event]:
        """The events that a step makes due."""
        match step:
            case TurnStarted(turn):
                self._places.clear()
                return [] if turn == 1 else [Continued(0)]
            case Status() | Started():
                # Of the first turn alone: nobody is told to wait within an answer.
                known, self._started = self._started, self._started or isinstance(step, Started)
                return [] if known else [step]
            case ToolCallStarted(_, _, id, name):
                return [self._call(id, name)]
            case ToolArguments(_, call, text):
                own, number = self._places[call]
                return [ToolArguments(0, number, text) if own else ServerCallArguments(0, number, text)]
            case ToolReturned(_, made):
                return [self._ended(made)]
            case Finished():
                self._finished = step
                return []
            case ConversationFinished(result):
                return [*self._cut_off(result), self._end(result)]
            case ToolCalled() | TurnEnded():
                return []
            case _:
                return [step]

    def _call(self, id: str, name: str) -> Event:  # noqa: A002 - the event's own word
        own = name in self._toolbox.declared
        number = self._counts[own]
        self._counts[own] += 1
        self._places.append((own, number))
        if own:
            return ToolCallStarted(0, number, id, name)
        self._running.append(number)
        tool = self._toolbox.found.get(name)
        return ServerCallStarted(0, number, id, name, None if tool is None else tool.server)

    def _ended(self, made: ExecutedCall) -> Event:
        self._told += 1
        return ServerCallEnded(0, self._running.popleft(), made.result.text, made.result.outcome, made.seconds)

    def _cut_off(self, result: ConversationResult) -> Sequence[Event]:
        """The ends of calls that ran when the time was over."""
        return [self._ended(made) for made in result.tool_calls_executed[self._told :]]

    def _end(self, result: ConversationResult) -> Event:
        """The end of the answer. Raises what broke a later turn."""
        reason, last, total = result.finish_reason, self._finished, self._total
        if reason == "error" and result.error is not None:
            raise result.error
        if not self._started:
            raise RequestTimeoutError("the time of the request was over before its model was there")
        stats = GenerationStats(
            prompt_tokens=total.prompt_tokens,
            cached_tokens=total.cached_tokens,
            generated_tokens=total.generated_tokens,
            queue_time=total.queue_time,
            prefill_time=total.prefill_time,
            total_time=0.0 if last is None else last.stats.total_time,
        )
        ends: Mapping[str, FinishText] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}
        if reason in ends:
            return Finished(0, ends[reason], None if last is None else last.stop_reason, stats)
        return Finished(0, "length", None, stats, reason)
