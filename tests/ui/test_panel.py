"""The settings panel: what is changed there is set, what is out of bounds is not."""

from __future__ import annotations

import asyncio

import pytest
from nicegui import ui

from candle_vllm.mcp import McpServer, McpServers
from candle_vllm.mcp.client import McpTool
from candle_vllm.ui.panel import SettingsPanel
from candle_vllm.ui.settings import Settings

from .elements import blank_page, of, said


class Changes:
    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("label", "value", "field", "kept"),
    [
        ("Temperature", 0.5, "temperature", 0.5),
        ("Temperature", 3, "temperature", 0.1),
        ("Top k", 40, "top_k", 40),
        ("Top k", 1.5, "top_k", None),
        ("Temperature", None, "temperature", None),
    ],
)
async def test_a_number(label: str, value: float | None, field: str, kept: float | None) -> None:
    settings, changes = Settings(temperature=0.1), Changes()
    with blank_page() as client:
        SettingsPanel(settings, McpServers(), changes)
        box = next(one for one in of(client, ui.number) if one.props["label"] == label)
        box.value = value
        await settle()
    assert getattr(settings, field) == kept
    taken = kept == value
    assert changes.count == int(taken)
    assert (box.error is None) is taken


async def test_reasoning_effort() -> None:
    settings, changes = Settings(), Changes()
    with blank_page() as client:
        SettingsPanel(settings, McpServers(), changes)
        (effort,) = of(client, ui.select)
        effort.value = "low"
        await settle()
        assert settings.reasoning_effort == "low"
        effort.value = ""
        await settle()
        assert settings.reasoning_effort is None


async def test_tools_are_switched_one_by_one_and_all_together() -> None:
    servers = McpServers([McpServer(name="pantry", command="none"), McpServer(name="empty", command="none")])
    servers._listed["pantry"] = tuple(
        McpTool(
            server="pantry",
            name=name,
            description=name,
            parameters={},
            schema={},
            valid=lambda arguments: None,
            valid_result=None,
        )
        for name in ("find", "buy")
    )
    settings, changes = Settings(), Changes()
    with blank_page() as client:
        panel = SettingsPanel(settings, servers, changes)
        panel.open()
        assert "No tools are known of it." in said(client)
        everything, find, buy = of(client, ui.switch)
        assert (find.text, buy.text) == ("find", "buy")
        find.value = False
        buy.value = False
        buy.value = True
        everything.value = False
        await settle()
    off = next(name for name, tool in servers.listed().items() if tool.name == "find")
    assert (settings.tools_off, settings.tools, changes.count) == ([off], False, 4)
