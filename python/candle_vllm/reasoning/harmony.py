"""gpt-oss, harmony: messages in channels. Analysis is thinking; final messages and commentary to nobody are text.

A message to a tool passes through as it is written, marks and all: the tool-call format `openai` reads it.
"""

from __future__ import annotations

import re

from candle_vllm.pieces import Parse, Reader, marks

from .events import Outlet
from .style import Style

__all__ = ["Harmony"]

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_END, _CALL, _RETURN = "<|end|>", "<|call|>", "<|return|>"
_RECIPIENT = re.compile(r"\bto=(?!(?:assistant|user|final)\b)[\w.\-/]+")


class Harmony(Style):
    """Messages in channels."""

    names = ("openai_gptoss", "openai", "gpt_oss", "harmony")
    signs = ((_CHANNEL, _MESSAGE),)
    answer_after = f"{_CHANNEL}final{_MESSAGE}"
    ending = f"{_END}{_START}assistant{_CHANNEL}final{_MESSAGE}"

    @property
    def marks(self) -> tuple[str, ...]:
        """All marks."""
        return (_START, _CHANNEL, _MESSAGE, _END, _CALL, _RETURN, "<|constrain|>")

    def begun_by(self, prompt: str) -> bool:
        """Whether the prompt ends inside an analysis message."""
        return prompt.rstrip().endswith(f"{_CHANNEL}analysis{_MESSAGE}")

    def read(self, reader: Reader, out: Outlet, begun: bool) -> Parse[None]:
        """Messages in turn."""
        if begun:
            out.enter()
            yield from self._body(reader, out)
        while True:
            mark = yield from reader.upto(marks(_START, _CHANNEL, _END, _CALL, _RETURN), out.put)
            if not mark:
                return
            if mark in (_START, _CHANNEL):
                yield from self._message(reader, out)
            else:
                reader.take(len(mark))

    def _message(self, reader: Reader, out: Outlet) -> Parse[None]:
        """One message, its first mark being next."""
        pieces: list[str] = []
        mark = yield from reader.upto(marks(_MESSAGE, _END, _CALL, _RETURN), pieces.append)
        header = "".join(pieces)
        if mark == _MESSAGE:
            reader.take(len(mark))
        if _RECIPIENT.search(header):
            out.verbatim(header + (mark if mark == _MESSAGE else ""))
            ended = yield from reader.upto(marks(_END, _CALL, _RETURN, _START), out.verbatim)
            if ended and ended != _START:
                out.verbatim(reader.take(len(ended)))
        elif mark == _MESSAGE:
            if "analysis" in header:
                out.enter()
            yield from self._body(reader, out)

    def _body(self, reader: Reader, out: Outlet) -> Parse[None]:
        mark = yield from reader.upto(marks(_END, _CALL, _RETURN, _START), out.put)
        if mark and out.inside:
            out.leave()
        if mark != _START:
            reader.take(len(mark))
