"""Settings: what a user of the page has set for all conversations, and the request fields that follow from it.

Must not know how they are shown or stored.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FIELDS", "NumberField", "Settings"]


class NumberField(BaseModel):
    """How one number of a request is asked for: its name there, what a user reads, its bounds and step."""

    model_config = ConfigDict(frozen=True)

    name: str
    label: str
    hint: str
    least: float
    most: float
    step: float
    whole: bool = False


FIELDS = (
    NumberField(name="temperature", label="Temperature", hint="0 is the likeliest", least=0, most=2, step=0.1),
    NumberField(name="top_p", label="Top p", hint="1 is all tokens", least=0, most=1, step=0.05),
    NumberField(name="top_k", label="Top k", hint="0 is all tokens", least=0, most=1e6, step=1, whole=True),
    NumberField(name="min_p", label="Min p", hint="0 is all tokens", least=0, most=1, step=0.01),
    NumberField(name="max_tokens", label="Max tokens", hint="of an answer", least=1, most=1e9, step=1, whole=True),
    NumberField(name="seed", label="Seed", hint="same answer again", least=0, most=2**53, step=1, whole=True),
    NumberField(name="frequency_penalty", label="Frequency penalty", hint="0 is none", least=-2, most=2, step=0.1),
    NumberField(name="presence_penalty", label="Presence penalty", hint="0 is none", least=-2, most=2, step=0.1),
)
"""The sampling panel, in its order."""


class Settings(BaseModel):
    """None = as the server or the model's checkpoint has it."""

    model_config = ConfigDict(validate_assignment=True)

    model: str = ""
    """Name of the model; empty = the one that is served."""
    system: str = ""
    dark: bool | None = None
    """None = as the device has it."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10**6)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**53)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    reasoning_effort: Literal["none", "low", "medium", "high"] | None = None
    tools: bool = True
    """Whether tools of MCP servers may be called."""
    tools_off: list[str] = Field(default_factory=list)
    """Names of tools that may not."""

    def request(self, tools: Collection[str], has_servers: bool) -> dict[str, Any]:
        """Fields of a request. `tools` are the names of all tools of the server's MCP servers, if it has any."""
        fields: dict[str, Any] = {"model": self.model, "reasoning_effort": self.reasoning_effort}
        fields |= {field.name: getattr(self, field.name) for field in FIELDS}
        if has_servers:
            fields["mcp"] = self._mcp(tools)
        return {name: value for name, value in fields.items() if value not in (None, "")}

    def _mcp(self, tools: Collection[str]) -> dict[str, Any]:
        off = set(self.tools_off)
        allowed = [name for name in tools if name not in off]
        if not self.tools or (tools and not allowed):
            return {"servers": []}
        return {} if len(allowed) == len(tools) else {"allowed_tools": allowed}
