"""The loop of a conversation, exactly, with a model that says what a test has written down."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from candle_vllm.conversations import (
    ConversationFinished,
    ConversationOptions,
    ConversationResult,
    PendingCall,
    ResponsesSession,
    Toolbox,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnReasoning,
    TurnStarted,
    TurnText,
)
from candle_vllm.errors import ConfigError
from candle_vllm.openai import ApiError
from scripted import Scripted, result_of


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


async def nap(seconds: float) -> str:
    """Sleeps."""
    await asyncio.sleep(seconds)
    return f"slept {seconds}"


def fails() -> str:
    raise ValueError("the cat sat on the keyboard")


def long_text(words: int) -> str:
    return "word " * words


def session(model: Scripted) -> ResponsesSession:
    return ResponsesSession(model, Toolbox(functions=[add, nap, fails, long_text]))


async def run(model: Scripted, **options: Any) -> ConversationResult:
    return await session(model).arun_conversation("Go.", ConversationOptions(**options))


async def test_calls_and_their_results_go_back_and_forth() -> None:
    model = Scripted([("add", {"a": 2, "b": 3})], lambda request: f"It is {result_of(request)}.")
    result = await run(model)
    assert (result.final_message, result.turns_taken, result.finish_reason) == ("It is 5.", 2, "stop")
    assert list(result.messages) == [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_0_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_0_0", "name": "add", "content": "5"},
        {"role": "assistant", "content": "It is 5."},
    ]
    (made,) = result.tool_calls_executed
    assert (made.name, made.turn, made.result.text, made.server) == ("add", 1, "5", None)
    assert result.usage.generated_tokens == 20
    assert model.requests[0]["tools"][0]["function"]["description"] == "Adds two numbers."


async def test_the_stream_tells_everything_in_order() -> None:
    model = Scripted([("add", {"a": 1, "b": 1}), ("fails", {})], "?hm|It |is 2.")
    events = [event async for event in session(model).arun_conversation_stream("Go.")]
    assert [type(event) for event in events] == [
        *(TurnStarted, ToolCalled, ToolCalled, ToolReturned, ToolReturned, TurnEnded),
        *(TurnStarted, TurnReasoning, TurnText, TurnText, TurnEnded, ConversationFinished),
    ]
    last = events[-1]
    assert isinstance(last, ConversationFinished)
    assert last.result.final_message == "It is 2."
    assert last.result.messages[-1] == {"role": "assistant", "content": "It is 2.", "reasoning_content": "hm"}


async def test_calls_of_a_turn_run_side_by_side_and_return_in_order() -> None:
    model = Scripted([("nap", {"seconds": seconds}) for seconds in (0.4, 0.1, 0.3, 0.2)], "done")
    began = time.monotonic()
    result = await run(model)
    assert time.monotonic() - began < 0.8
    assert [made.result.text for made in result.tool_calls_executed] == [f"slept {s}" for s in (0.4, 0.1, 0.3, 0.2)]


@pytest.mark.parametrize(
    ("call", "outcome", "words"),
    [
        (("ad", {"a": 1, "b": 2}), "unknown_tool", "Did you mean 'add'?"),
        (("nap", {"seconds": 1}), "refused", "not allowed"),
        (("add", '{"a": 1, '), "invalid_arguments", "no valid JSON"),
        (("add", "[" * 100_000), "invalid_arguments", "no valid JSON"),
        (("add", [1, 2]), "invalid_arguments", "must be a JSON object"),
        (("add", {"a": "x", "b": 2}), "invalid_arguments", "a: Input should be a valid integer"),
        (("add", {"a": 1}), "invalid_arguments", "b: Field required"),
        (("add", {"a": 1, "b": 2, "c": 3}), "invalid_arguments", "c: Extra inputs"),
        (("fails", ""), "tool_error", "ValueError: the cat sat on the keyboard"),
    ],
)
async def test_what_goes_wrong_is_told_to_the_model(call: tuple[str, Any], outcome: str, words: str) -> None:
    model = Scripted([call, ("add", {"a": 1, "b": 1})], "done")
    result = await run(model, allowed_tools=["add", "fails"])
    wrong, right = result.tool_calls_executed
    assert wrong.result.outcome == outcome
    assert words in wrong.result.text
    assert right.result.text == "2"
    assert result_of(model.requests[1], 2) == wrong.result.text
    assert [tool["function"]["name"] for tool in model.requests[0]["tools"]] == ["add", "fails"]


async def test_partial_results_come_back_at_the_limit_of_turns() -> None:
    model = Scripted(lambda request: [("add", {"a": len(request["messages"]), "b": 0})])
    result = await run(model, max_turns=4)
    assert (result.finish_reason, result.turns_taken, len(result.tool_calls_executed)) == ("max_turns", 4, 4)
    assert result.final_message == ""
    # Fit to go on with: each call has its result.
    more = await session(Scripted("done")).arun_conversation(result.messages)
    assert more.final_message == "done"


async def test_going_round_in_circles_ends() -> None:
    model = Scripted([("add", {"a": 1, "b": 1})])
    result = await run(model, max_turns=50, max_repeats=3)
    assert (result.finish_reason, result.turns_taken) == ("loop", 5)
    outcomes = [made.result.outcome for made in result.tool_calls_executed]
    assert outcomes == ["ok", "ok", "ok", "refused", "refused"]


async def test_asking_again_is_fine_while_the_answer_changes() -> None:
    ticks = iter(range(100))

    def poll() -> int:
        return next(ticks)

    asked = ResponsesSession(Scripted([("poll", {})]), Toolbox(functions=[poll]))
    result = await asked.arun_conversation("Go.", ConversationOptions(max_turns=8, max_repeats=2))
    assert (result.finish_reason, result.turns_taken) == ("max_turns", 8)


async def test_the_budget_of_tokens_ends_it() -> None:
    model = Scripted(lambda request: [("add", {"a": len(request["messages"]), "b": 0})])
    result = await run(model, max_total_tokens=60)
    assert result.finish_reason == "token_budget"
    assert 60 <= result.usage.prompt_tokens + result.usage.generated_tokens < 160


async def test_the_budget_of_time_ends_a_call_and_an_answer() -> None:
    began = time.monotonic()
    calling = await run(Scripted([("add", {"a": 1, "b": 1}), ("nap", {"seconds": 30})], "done"), timeout=0.4)
    assert calling.finish_reason == "time_budget"
    assert [made.result.outcome for made in calling.tool_calls_executed] == ["ok", "timeout"]
    assert [message["role"] for message in calling.messages] == ["user", "assistant", "tool", "tool"]
    model = Scripted("one |two |three |four")
    model.pause = 0.15
    saying = await run(model, timeout=0.4)
    assert (saying.finish_reason, saying.final_message) == ("time_budget", "one two ")
    assert time.monotonic() - began < 2


async def test_a_tool_that_hangs_is_given_up() -> None:
    result = await run(Scripted([("nap", {"seconds": 30})], "done"), tool_timeout=0.2)
    assert result.tool_calls_executed[0].result.outcome == "timeout"
    assert result.final_message == "done"


@pytest.mark.parametrize(
    ("verdict", "outcome", "words"),
    [(True, "ok", "3"), (False, "refused", "did not approve"), ("ask my mother", "refused", "ask my mother")],
)
@pytest.mark.parametrize("later", [True, False])
async def test_calls_are_approved(verdict: bool | str, outcome: str, words: str, later: bool) -> None:
    asked: list[PendingCall] = []

    def now(call: PendingCall) -> bool | str:
        asked.append(call)
        return verdict

    async def soon(call: PendingCall) -> bool | str:
        return now(call)

    calls = [("add", {"a": 1, "b": 2}), ("add", {"a": 1})]
    result = await run(Scripted(calls, "done"), approve=soon if later else now)
    assert asked == [PendingCall("add", None, {"a": 1, "b": 2})]
    assert result.tool_calls_executed[0].result.outcome == outcome
    assert words in result.tool_calls_executed[0].result.text


async def test_the_oldest_results_are_shortened_where_the_context_ends() -> None:
    def turn(request: Mapping[str, Any]) -> Any:
        at = sum(message["role"] == "assistant" for message in request["messages"])
        return [("long_text", {"words": 300 + at})] if at < 5 else "done"

    model = Scripted(turn, context=1000)
    result = await run(model, reserve_tokens=100)
    assert (result.final_message, result.finish_reason) == ("done", "stop")
    # In full for whoever called ...
    results = [message["content"] for message in result.messages if message["role"] == "tool"]
    assert [len(text.split()) for text in results] == [300, 301, 302, 303, 304]
    # ... but the model was shown the oldest short, and the newest whole.
    shown = [message["content"] for message in model.requests[-1]["messages"] if message["role"] == "tool"]
    assert "[... 1300 characters of this result left out to fit the context ...]" in shown[0]
    assert shown[-1] == results[-1]
    for request in model.requests:
        assert len(str(request["messages"]).split()) < 950
    # What was shortened once stays so: later prompts begin as earlier ones.
    for earlier, later in zip(model.requests[3:], model.requests[4:], strict=False):
        assert later["messages"][0] == earlier["messages"][0]


async def test_one_result_that_outgrows_the_context_is_cut() -> None:
    model = Scripted([("long_text", {"words": 5000})], "done", context=1000)
    result = await run(model)
    assert result.final_message == "done"
    assert model.refused > 0
    assert len(result_of(model.requests[1]).split()) > 100


async def test_a_prompt_that_nothing_shortens_is_the_callers_error() -> None:
    with pytest.raises(ApiError, match="too long"):
        await session(Scripted("done", context=5)).arun_conversation("a b c d e f g h")


async def test_failures_after_the_first_turn_keep_what_there_is() -> None:
    broken = ApiError("the engine failed", status=503)
    with pytest.raises(ApiError, match="the engine failed"):
        await run(Scripted(broken))
    result = await run(Scripted([("add", {"a": 1, "b": 2})], broken))
    assert (result.finish_reason, result.error, result.turns_taken) == ("error", broken, 1)
    assert result.tool_calls_executed[0].result.text == "3"


async def test_cancelling_ends_the_calls_too() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    conversation = ResponsesSession(Scripted([("wait", {})]), Toolbox(functions=[wait]))
    task = asyncio.create_task(conversation.arun_conversation("Go."))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert len(asyncio.all_tasks()) == 1


async def test_closing_the_stream_ends_the_calls_too() -> None:
    stream = session(Scripted([("nap", {"seconds": 60})])).arun_conversation_stream("Go.")
    async for event in stream:
        if isinstance(event, ToolCalled):
            break
    await stream.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_only_the_first_turn_is_bound_to_a_tool() -> None:
    model = Scripted([("add", {"a": 1, "b": 2})], "done")
    await run(model, tool_choice="add", parallel_tool_calls=False, request={"temperature": 0, "model": "m"})
    first, second = model.requests
    assert first["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert (second["tool_choice"], second["parallel_tool_calls"]) == ("auto", False)
    assert (first["temperature"], first["model"]) == (0, "m")


def test_the_blocking_doors_do_the_same() -> None:
    script = ([("add", {"a": 2, "b": 3})], lambda request: f"It is {result_of(request)}.")
    with session(Scripted(*script)) as conversation:
        assert conversation.run_conversation("Go.").final_message == "It is 5."
        events = list(conversation.run_conversation_stream([{"role": "user", "content": "Go."}]))
        assert isinstance(events[-1], ConversationFinished)
        assert [tool["function"]["name"] for tool in conversation.list_openai_tools(["add"])] == ["add"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_turns": 0}, "max_turns must be an integer of at least 1"),
        ({"timeout": 0}, "timeout must be a number above 0"),
        ({"allowed_tools": "add"}, "allowed_tools must be a list of names"),
        ({"request": {"messages": []}}, r"request\.messages must be without the fields"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ConversationOptions(**options)
