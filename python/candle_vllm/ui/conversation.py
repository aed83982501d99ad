"""Conversations as a browser keeps them: what was said, thought and called, and what of it a model is sent again.

Must not know how they are shown, stored or answered.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

__all__ = ["Answer", "CallPart", "Conversation", "Message", "Question", "TextPart"]

_TITLE = 60
"""Characters of the first question that a conversation is called by."""


class TextPart(BaseModel):
    """A stretch of an answer: what the model says, or what it thinks first."""

    kind: Literal["text", "reasoning"] = "text"
    text: str = ""
    turn: int = 1
    """Of an answer in several turns; between them tools ran."""


class CallPart(BaseModel):
    """A tool that the model called."""

    kind: Literal["call"] = "call"
    id: str
    name: str
    server: str | None = None
    """The MCP server that ran it; None where nothing here ran it."""
    arguments: str = ""
    """JSON text as the model wrote it, whole or not."""
    output: str | None = None
    """What the model was told; None while it runs, or where it never did."""
    error: str | None = None
    """What kind of failure `output` tells of."""
    turn: int = 1


class Question(BaseModel):
    """What the user said."""

    role: Literal["user"] = "user"
    text: str


class Answer(BaseModel):
    """What the model made of it, in the order in which it came."""

    role: Literal["assistant"] = "assistant"
    parts: list[Annotated[TextPart | CallPart, Field(discriminator="kind")]] = Field(default_factory=list)
    model: str = ""
    """Name of the model that answered."""
    tokens: int = 0
    """Tokens generated."""
    rate: float | None = None
    """Tokens a second after the first one; None for fewer than two."""
    ended: Literal["", "stop", "length", "tool_calls", "stopped", "failed"] = ""
    """Why it ended: `stopped` by the user, `failed` with `error`; empty where the page was left before that."""
    error: str = ""

    @property
    def text(self) -> str:
        """All that was said, without thoughts; turns stand apart."""
        said: dict[int, str] = {}
        for part in self.parts:
            if part.kind == "text":
                said[part.turn] = said.get(part.turn, "") + part.text
        return "\n\n".join(text for text in said.values() if text)

    def add(self, kind: Literal["text", "reasoning"], text: str, turn: int) -> None:
        """Continue the last stretch, or begin one of another kind or turn."""
        last = self.parts[-1] if self.parts else None
        if isinstance(last, TextPart) and (last.kind, last.turn) == (kind, turn):
            last.text += text
        else:
            self.parts.append(TextPart(kind=kind, text=text, turn=turn))

    def sent(self) -> dict[str, Any] | None:
        """The message that tells a model of this answer; None where there is nothing to tell."""
        calls = [
            {
                "id": part.id,
                "type": "mcp_call",
                "turn": part.turn,
                "server_label": part.server,
                "name": part.name,
                "arguments": part.arguments,
                "output": part.output,
                "error": part.error,
            }
            for part in self.parts
            if isinstance(part, CallPart) and part.output is not None
        ]
        if not self.text and not calls:
            return None
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        return {**message, "mcp_calls": calls} if calls else message


Message = Annotated[Question | Answer, Field(discriminator="role")]


class Conversation(BaseModel):
    """Questions and answers in turn. `id` is its name in the browser's store."""

    id: str = Field(default_factory=lambda: secrets.token_hex(8), pattern=r"^[0-9a-f]{1,32}$")
    title: str = ""
    updated: float = Field(default_factory=time.time)
    """Unix seconds of the last change."""
    messages: list[Message] = Field(default_factory=list)

    def ask(self, text: str) -> None:
        """Add a question; the first one gives the title."""
        if not self.messages:
            self.title = " ".join(text.split())[:_TITLE] or "Untitled"
        self.messages.append(Question(text=text))
        self.updated = time.time()

    def cut(self, at: int) -> None:
        """Forget message `at` and all that follow."""
        del self.messages[at:]
        self.updated = time.time()

    def sent(self, system: str) -> list[dict[str, Any]]:
        """The messages of a request, the system prompt first where there is one.

        Answers of which nothing came are left out, and the questions around them become one: many templates refuse two
        messages of a user in a row.
        """
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system.strip() else []
        for message in self.messages:
            told = message.sent() if isinstance(message, Answer) else {"role": "user", "content": message.text}
            if told is None:
                continue
            if messages and messages[-1]["role"] == told["role"] == "user":
                messages[-1]["content"] += "\n\n" + told["content"]
            else:
                messages.append(told)
        return messages
