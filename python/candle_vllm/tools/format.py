"""What a tool-call format is: how models of one kind write calls, how that is read, and how it is enforced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from candle_vllm.errors import ConfigError
from candle_vllm.pieces import Parse, Reader

from .calls import Calls, new_id
from .events import ToolCall
from .grammar import Lark
from .schemas import Tool, Tools

__all__ = ["Format"]


class Format(ABC):
    """One way of writing tool calls. Instances have no state; one serves all requests."""

    names: ClassVar[tuple[str, ...]]
    """The format's name, as vLLM names its parser, then its other names."""

    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """A chat template that holds all the texts of one of these was written for this format."""

    marks: ClassVar[tuple[str, ...]] = ()
    """Texts that may be single special tokens of the model; the engine must not strip them from the reply."""

    opening: ClassVar[str] = ""
    """What a grammar waits for, or begins with, before calls; "" where nothing announces them."""

    bare_begin: ClassVar[str] = ""
    """The character that calls begin with and replies without calls do not, where no `opening` tells them apart."""

    repeats: ClassVar[bool] = True
    """Whether parallel calls each have an `opening` of their own."""

    separator: ClassVar[str] = ""
    """What stands between such calls."""

    @property
    def name(self) -> str:
        """The name to show."""
        return self.names[0]

    def recognises(self, template: str) -> bool:
        """Whether a chat template's text shows this format."""
        return any(all(text in template for text in texts) for texts in self.signs)

    def new_id(self) -> str:
        """An id for a call, in the form that the format's templates accept."""
        return new_id()

    @abstractmethod
    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Read a whole reply."""

    @abstractmethod
    def write(self, calls: Sequence[ToolCall]) -> str:
        """The calls as a model of this kind writes them."""

    @abstractmethod
    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """The grammar of what follows `opening`: one call, or several where one opening serves them `parallel`."""

    def grammar(
        self,
        tools: Tools | Iterable[Mapping[str, Any] | Tool],
        choice: str = "auto",
        parallel: bool = True,
        special: Mapping[str, int] | None = None,
        thinking: tuple[str, str] | None = None,
    ) -> str:
        """A grammar, in llguidance's Lark, of replies that call these tools.

        `tools` are the request's, in OpenAI's form. `choice`: `auto` lets text stand and holds calls to their schemas
        once they begin; `required` begins with a call; any other text names the one tool that is called. `parallel`
        allows several calls. `special` maps the texts that are special tokens in the model's tokenizer to their ids.
        `thinking` are the marks between which a model may think first (`Style.span`), the first one "" where the
        prompt has opened it. Raises :class:`ConfigError` for a name that no tool has and for a strict tool that this
        format cannot hold to its schema.
        """
        lark = Lark(special or {})
        try:
            return lark.text(self.reply(lark, lark.choose(list(Tools(tools)), choice), choice, parallel, thinking))
        except RecursionError as error:
            raise ConfigError("the tools' schemas are nested too deeply to be enforced") from error

    def reply(
        self, lark: Lark, tools: Sequence[Tool], choice: str, parallel: bool, thinking: tuple[str, str] | None
    ) -> str:
        """The grammar of a whole reply."""
        body = lark.rule(self.body(lark, tools, parallel))
        several = parallel and self.repeats
        thought = lark.thinking(thinking)
        if choice == "auto":
            begins = self.bare_begin + (thinking[0][:1] if thinking else "")
            answer = lark.lazily(self.opening, body, several, begins, self.separator)
            return f"{thought} ({answer})" if thought else answer
        opening = lark.literal(self.opening)
        between = lark.literal(self.separator)
        more = f"({' '.join(filter(None, (between, opening, body)))})*" if several else ""
        return " ".join(filter(None, (thought, opening, body, more)))
