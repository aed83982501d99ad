"""GenerationRequest: what any endpoint asks for, in one frozen form. Holds no behaviour beyond naming its fields."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from candle_vllm.generation.errors import RequestError

__all__ = ["Constraint", "Conversation", "GenerationRequest", "Prompts", "ServerTools", "ToolUse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages that the model's own chat template turns into one prompt."""

    messages: Sequence[Mapping[str, Any]]
    """Dictionaries shaped as OpenAI's messages."""
    documents: Sequence[Mapping[str, Any]] = ()
    """Documents that the template shows."""
    add_generation_prompt: bool = True
    """Whether the prompt ends where the assistant begins to speak."""
    continue_final_message: bool = False
    """Whether the last message is left open and goes on."""
    shorten: bool = False
    """Whether the oldest messages are left out where the prompt would leave too little room for an answer."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """More variables for the template."""
    reasoning_effort: str | None = None
    """How much the model is to think, where its template knows of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Finished prompts, each with answers of its own."""

    items: Sequence[str | Sequence[int]]
    """Texts, or lists of token ids."""
    add_special_tokens: bool = True
    """Whether a text gets the tokenizer's own first token."""
    suffix: str | None = None
    """What stands behind each answer, which is then written to fit between; None = nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The tools that the model may call, and whether it must."""

    tools: Sequence[Mapping[str, Any]]
    """All that the prompt shows, in OpenAI's form."""
    choice: str = "auto"
    """`auto`, `required`, or the name of the one tool that is to be called."""
    allowed: frozenset[str] | None = None
    """Names of those of the tools that may be called; None = all."""
    parallel: bool = True
    """Whether an answer may hold several calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTools:
    """Tools that are run here, not by the client: those of servers that whoever runs this has set up."""

    servers: Collection[str] | None = None
    """Names of the servers; None = all."""
    allowed: Collection[str] | None = None
    """Names of their tools, as the model or the servers know them, that may be called; None = all."""
    max_turns: int | None = None
    """Answers of the model at most; None = as many as are allowed here."""
    max_calls: int | None = None
    """Calls at most; those beyond are refused, as the model is told. None = as many as are allowed here."""
    max_total_tokens: int | None = None
    """Tokens of all prompts and answers, after which no further turn begins; None = as many as are allowed here."""
    timeout: float | None = None
    """Seconds of all turns and calls together; None = as many as are allowed here."""
    asked: bool = True
    """Whether the client asked for them; otherwise they are used only where that is the rule."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form that the answer must have. What cannot be enforced is refused, never generated freely."""

    kind: Literal["json_object", "json_schema", "regex", "choice", "grammar"]
    value: Any = None
    """The schema, the expression, the texts or the grammar."""
    field: str = "constraint"
    """What the client calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request on its way. An endpoint makes it from its own request form; everything below reads only this."""

    input: Conversation | Prompts
    model: str = ""
    """Name of the model; empty means the one that is served."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `GenerationParams` that the client set; the model's defaults stand in for the others."""
    max_tokens: int | None = None
    """Tokens of each answer at most; None = what the context leaves."""
    tool_use: ToolUse | None = None
    """None: answers are text, whatever it looks like."""
    server_tools: ServerTools | None = None
    """Tools that are run here, turn after turn, before the answer is complete; only a conversation of one answer may
    have them. None: none."""
    constraint: Constraint | None = None
    """The form of the answer's text."""
    allowed_token_ids: Sequence[int] | None = None
    """Token ids of which alone the answer is made; None = any."""
    bad_words: Sequence[str] = ()
    """Words whose token sequences the answer never completes."""
    thinking_budget: int | None = None
    """Tokens that each answer may think with before its thinking is closed; None = any number."""
    n: int = 1
    """Answers to each prompt."""
    stream: bool = False
    """Whether pieces are wanted as they come; otherwise each answer arrives at once, as the same events."""
    token_ids: bool = False
    """Whether the ids of the answer's tokens are wanted."""
    include_stop: bool = False
    """Whether the stop text that ended an answer is part of it."""
    logprobs: int | None = None
    """Log-probabilities of the answer's tokens: None = off, k = and the k best."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens."""
    cache_salt: str | None = None
    """Computed prefixes are shared only between requests of the same salt."""
    priority: int = 0
    """Smaller runs first."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the text."""
    timeout: float | None = None
    """Seconds that it may wait for its model; None = any time."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What the client calls a field of the engine or of this class, or a place in one, where that is another name."""

    @property
    def vocabulary_field(self) -> str | None:
        """The field that says which tokens the answer may consist of; None where none does."""
        if self.allowed_token_ids is not None:
            return "allowed_token_ids"
        return "bad_words" if self.bad_words else None

    def named(self, name: str) -> str:
        """What the client calls this field, a place in it (`a.b`, `a[0]`) included."""
        stem = name if name in self.fields else name.partition(".")[0].partition("[")[0]
        return self.fields.get(stem, stem) + name[len(stem) :]

    def refusal(self, name: str, problem: str, code: str = "invalid_value") -> RequestError:
        """The error that says what is wrong with a field, in the client's words; `problem` goes on after its name."""
        shown = self.named(name)
        return RequestError(f"'{shown}' {problem}", param=shown, code=code)
