"""What the Responses API's specification says of the events that are sent here: their required fields and their order.

Written down from OpenAI's published types (openai 3.57); `check` holds a stream to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NUMBER: dict[str, type] = {"sequence_number": int}
WHOLE: dict[str, type] = {**NUMBER, "response": dict}
ITEM: dict[str, type] = {**NUMBER, "output_index": int, "item": dict}
IN_ITEM: dict[str, type] = {**NUMBER, "output_index": int, "item_id": str}
PART: dict[str, type] = {**IN_ITEM, "content_index": int, "part": dict}

EVENTS: dict[str, dict[str, type]] = {
    "response.created": WHOLE,
    "response.queued": WHOLE,
    "response.in_progress": WHOLE,
    "response.completed": WHOLE,
    "response.incomplete": WHOLE,
    "response.failed": WHOLE,
    "response.output_item.added": ITEM,
    "response.output_item.done": ITEM,
    "response.content_part.added": PART,
    "response.content_part.done": PART,
    "response.output_text.delta": {**IN_ITEM, "content_index": int, "delta": str, "logprobs": list},
    "response.output_text.done": {**IN_ITEM, "content_index": int, "text": str, "logprobs": list},
    "response.reasoning_text.delta": {**IN_ITEM, "content_index": int, "delta": str},
    "response.reasoning_text.done": {**IN_ITEM, "content_index": int, "text": str},
    "response.function_call_arguments.delta": {**IN_ITEM, "delta": str},
    "response.function_call_arguments.done": {**IN_ITEM, "arguments": str},
    "response.mcp_call.in_progress": IN_ITEM,
    "response.mcp_call.completed": IN_ITEM,
    "response.mcp_call.failed": IN_ITEM,
    "response.mcp_call_arguments.delta": {**IN_ITEM, "delta": str},
    "response.mcp_call_arguments.done": {**IN_ITEM, "arguments": str},
}
OBJECTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "response": {
        "id": str,
        "created_at": (int, float),
        "model": str,
        "object": str,
        "output": list,
        "parallel_tool_calls": bool,
        "status": str,
        "tool_choice": (str, dict),
        "tools": list,
    },
    "message": {"id": str, "content": list, "role": str, "status": str, "type": str},
    "reasoning": {"id": str, "summary": list, "type": str},
    "function_call": {"arguments": str, "call_id": str, "id": str, "name": str, "status": str, "type": str},
    "mcp_call": {"arguments": str, "id": str, "name": str, "server_label": str, "type": str, "status": str},
    "output_text": {"annotations": list, "text": str, "type": str},
    "reasoning_text": {"text": str, "type": str},
    "usage": {
        "input_tokens": int,
        "input_tokens_details": dict,
        "output_tokens": int,
        "output_tokens_details": dict,
        "total_tokens": int,
    },
}
ENDS = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
# In an item: what opens it, what goes on, what is told when it is complete.
TEXT = ("response.content_part.added", "response.output_text", "response.content_part.done")
THOUGHT = ("response.content_part.added", "response.reasoning_text", "response.content_part.done")
CALL = (None, "response.function_call_arguments", None)
SHAPES = {"message": TEXT, "reasoning": THOUGHT, "function_call": CALL}
WHOLE_OF = {"message": "text", "reasoning": "text", "function_call": "arguments"}


def has(value: Any, fields: Any, where: str) -> None:
    for name, kind in fields.items():
        assert name in value, f"{where} lacks {name}"
        assert isinstance(value[name], kind), f"{where}.{name} is {value[name]!r}"


def whole(response: dict[str, Any]) -> None:
    """A response has what it must have, whatever it holds."""
    has(response, OBJECTS["response"], "response")
    assert response["object"] == "response"
    for item in response["output"]:
        has(item, OBJECTS[item["type"]], item["type"])
        for part in item.get("content") or ():
            has(part, OBJECTS[part["type"]], part["type"])
    if response["usage"] is not None:
        has(response["usage"], OBJECTS["usage"], "usage")
        assert response["usage"]["total_tokens"] == (
            response["usage"]["input_tokens"] + response["usage"]["output_tokens"]
        )


def check(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Hold a whole stream to the facts; gives its last response."""
    for event in events:
        has(event, EVENTS[event["type"]], event["type"])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    rest = list(events)
    assert rest.pop(0)["type"] == "response.created"
    while rest[0]["type"] == "response.queued":
        assert rest.pop(0)["response"]["status"] == "queued"
    last = rest.pop()
    assert last["response"]["status"] == ENDS[last["type"]]
    if rest and rest[0]["type"] == "response.in_progress":
        assert rest.pop(0)["response"]["status"] == "in_progress"
    items: list[dict[str, Any]] = []
    here = _calls_here(rest)
    while rest or len(items) in here:
        if len(items) in here:
            items.append(here[len(items)])
        else:
            items.append(_item(rest, len(items), last["type"] == "response.failed"))
    whole(last["response"])
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    if last["type"] != "response.failed":
        assert last["response"]["output"] == items
        assert last["response"]["usage"] is not None
    return dict(last["response"])


def _calls_here(rest: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Take the events of calls that were run here out of the others: they go on side by side. Their items, by place."""
    places = [event["output_index"] for event in rest if event.get("item", {}).get("type") == "mcp_call"]
    items: dict[int, dict[str, Any]] = {}
    for place in dict.fromkeys(places):
        own = [event for event in rest if event.get("output_index") == place]
        rest[:] = [event for event in rest if event.get("output_index") != place]
        added, *going, done = own
        item = done["item"]
        assert (added["type"], added["item"]["status"]) == ("response.output_item.added", "in_progress")
        assert done["type"] == "response.output_item.done"
        kinds = [event["type"].removeprefix("response.") for event in going]
        deltas = [event["delta"] for event in going if "delta" in event]
        arguments = ["mcp_call_arguments.delta"] * len(deltas) + ["mcp_call_arguments.done"]
        assert kinds == ["mcp_call.in_progress", *arguments, f"mcp_call.{item['status']}"]
        assert "".join(deltas) == item["arguments"] == going[-2]["arguments"]
        assert {event["item_id"] for event in going} == {item["id"]} == {added["item"]["id"]}
        items[place] = item
    return items


def _item(rest: list[dict[str, Any]], index: int, may_break: bool) -> dict[str, Any]:
    added = rest.pop(0)
    assert added["type"] == "response.output_item.added"
    assert added["output_index"] == index
    item = added["item"]
    assert item["status"] == "in_progress"
    opening, goes_on, closing = SHAPES[item["type"]]
    told = ""
    if opening is not None:
        assert rest.pop(0)["type"] == opening
    while rest and rest[0]["type"] == f"{goes_on}.delta":
        event = rest.pop(0)
        assert (event["item_id"], event["output_index"]) == (item["id"], index)
        told += event["delta"]
    if may_break and not rest:
        return dict(item)
    done = rest.pop(0)
    assert done["type"] == f"{goes_on}.done"
    assert done[WHOLE_OF[item["type"]]] == told
    if closing is not None:
        assert rest.pop(0)["type"] == closing
    ended = rest.pop(0)
    assert (ended["type"], ended["output_index"]) == ("response.output_item.done", index)
    assert ended["item"]["id"] == item["id"]
    assert ended["item"]["status"] in ("completed", "incomplete")
    return dict(ended["item"])
