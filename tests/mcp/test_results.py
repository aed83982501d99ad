"""Results as text for a model."""

import base64

import pytest

from candle_vllm.errors import McpConnectionError, McpToolExecutionError, RequestTimeoutError
from candle_vllm.mcp import ToolResult
from candle_vllm.mcp.results import clipped, text_of


def test_text_blocks_are_the_text() -> None:
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert text_of(blocks, None, 100) == "one\ntwo"
    # Servers repeat what is structured as text.
    assert text_of(blocks, {"n": 1}, 100) == "one\ntwo"


def test_structured_content_alone_is_shown() -> None:
    assert text_of([], {"name": "é"}, 100) == '{"name": "é"}'
    picture = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(b"12345").decode()}
    assert text_of([picture], [1], 100) == "[1]\n[image: image/png, 5 bytes, not shown]"


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "audio", "data": ""}, "[audio: unknown type, 0 bytes, not shown]"),
        (
            {"type": "resource_link", "uri": "file:///a", "name": "a", "mimeType": "text/plain", "description": "An a"},
            "[resource file:///a (a, text/plain)] An a",
        ),
        ({"type": "resource", "resource": {"uri": "file:///a", "text": "hello"}}, "[resource file:///a]\nhello"),
        (
            {"type": "resource", "resource": {"uri": "file:///a", "blob": "AAAA", "mimeType": "x/y"}},
            "[resource file:///a: x/y, 3 bytes, not shown]",
        ),
        ({"type": "hologram"}, "[content of type 'hologram', not shown]"),
        ({"type": "text", "text": ""}, "(The tool returned nothing.)"),
    ],
)
def test_other_content_is_described(block: dict[str, object], text: str) -> None:
    assert text_of([block], None, 1000) == text


def test_long_texts_lose_their_middle() -> None:
    text = "a" * 500 + "b" * 500
    short = clipped(text, 100)
    assert short == "a" * 75 + "\n[... 900 characters left out ...]\n" + "b" * 25
    assert clipped(text, 1000) == text


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("timeout", RequestTimeoutError),
        ("connection", McpConnectionError),
        ("tool_error", McpToolExecutionError),
        ("refused", McpToolExecutionError),
    ],
)
def test_failures_can_be_raised(outcome: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="^it broke$"):
        ToolResult.failed(outcome, "it broke").raise_for_error()  # type: ignore[arg-type]
    assert ToolResult(text="fine").raise_for_error().text == "fine"
