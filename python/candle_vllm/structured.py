"""What an answer must conform to: JSON, an expression, one of some texts, a grammar; all of it or parts of it.

Knows the shape of a request for it; what a schema means and which of its keywords are held is the engine's business.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from candle_vllm import checks

__all__ = ["StructuredOutput", "Trigger"]

_FORMS = ("json_object", "json_schema", "regex", "choice", "grammar")
_WHITESPACE = ("single", "compact", "any")
_MOST_BYTES = 512 * 1024
_MOST_CHOICES = 4096
_MOST_TRIGGERS = 256
_MOST_MARK = 256
_I31 = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutput:
    """What an answer must conform to: one form for all of it, or `triggers`. Bad values raise `ConfigError` here.

    Whether a form can be held is found out when the request is submitted: what cannot be enforced raises `ConfigError`
    there, naming keyword and place. No answer is ever free text where a form was asked for; one that is cut off
    (`max_tokens`, a stop string) may be incomplete.
    """

    json_object: bool = False
    """Any JSON object."""
    json_schema: str | Mapping[str, Any] | bool | None = None
    """JSON that this schema allows (drafts 6 to 2020-12), properties in the schema's order. Text or what JSON reads."""
    regex: str | None = None
    """A text that this expression (of Rust's regex crate) matches from its first to its last character."""
    choice: Sequence[str] | None = None
    """One of these texts, 1 to 4,096."""
    grammar: str | None = None
    """A grammar in Lark's notation as llguidance reads it, or in llama.cpp's (with `::=`)."""
    whitespace: str = "single"
    """Blanks in JSON: `single` as `json.dumps` writes it, `compact` none, `any` wherever JSON allows them."""
    after: str | None = None
    """The rule begins behind this text or special token (`</think>`); before it everything but an end is free."""
    triggers: "Sequence[Trigger]" = ()
    """Free text, in which parts have a form once the model begins them. In place of a form."""
    least: int = 0
    """With triggers: no end before this many parts."""
    most: int | None = None
    """With triggers: the answer ends with this many parts; None = as many as it likes."""

    def __post_init__(self) -> None:
        """Check every field and bring it to its plain type."""
        put = object.__setattr__
        checks.boolean("json_object", self.json_object)
        put(self, "json_schema", _schema(self.json_schema))
        for field in ("regex", "grammar"):
            put(self, field, _source(field, getattr(self, field)))
        put(self, "choice", _choice(self.choice))
        checks.choice("whitespace", self.whitespace, _WHITESPACE)
        if self.after is not None:
            _mark("after", self.after)
        triggers = checks.items("triggers", self.triggers, "triggers", _MOST_TRIGGERS)
        for at, trigger in enumerate(triggers):
            if not isinstance(trigger, Trigger):
                checks.refuse("triggers", trigger, "a list of Trigger", place=f"[{at}]")
        put(self, "triggers", triggers)
        put(self, "least", checks.integer("least", self.least, 0, _I31))
        put(self, "most", checks.optional_integer("most", self.most, max(self.least, 1), _I31, none="no limit"))
        self._check_together()

    def _check_together(self) -> None:
        given = self.given() + (["triggers"] if self.triggers else [])
        if len(given) != 1:
            expected = "one of " + ", ".join((*_FORMS, "triggers"))
            checks.refuse("structured_output", " and ".join(given) or "none of them", expected)
        if not self.triggers and (self.least or self.most is not None):
            field = "least" if self.least else "most"
            checks.refuse(field, getattr(self, field), "left out without triggers: it counts them")

    def given(self) -> list[str]:
        """Names of the forms that are set."""
        return [field for field in _FORMS if getattr(self, field) not in (None, False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A part of an answer that has a form, wherever the model begins one: a tool call, a quotation, a query."""

    begin: str
    """What begins it: text, or a special token by its text."""
    form: StructuredOutput
    """The form of what follows; its `whitespace` is that of the whole answer, and it has no `after` or triggers."""
    end: str = ""
    """What stands behind it: text, or a special token by its text; "" = nothing."""

    def __post_init__(self) -> None:
        """Check every field."""
        _mark("begin", self.begin)
        if self.end != "":
            _mark("end", self.end)
        if not isinstance(self.form, StructuredOutput):
            checks.refuse("form", self.form, "a StructuredOutput")
        if self.form.triggers or self.form.after is not None:
            checks.refuse("form", "one with after or triggers", "a form alone")


def _source(field: str, value: object, place: str = "") -> str | None:
    if value is None:
        return None
    text = checks.text(field, value, "a text that is not empty")
    size = len(text.encode(errors="surrogatepass"))
    if size > _MOST_BYTES:
        checks.refuse(field, f"{size} bytes", f"at most {_MOST_BYTES} bytes", place=place)
    return text


def _schema(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return _source("json_schema", value)
    if not isinstance(value, Mapping | bool):
        checks.refuse("json_schema", value, "a schema: a mapping, True or False, or its text")
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        checks.refuse("json_schema", value, f"made of what JSON can write ({error})")
    return _source("json_schema", text)


def _choice(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    expected = "texts of at least one character"
    texts = tuple(
        checks.text("choice", text, expected) for text in checks.items("choice", value, "texts", _MOST_CHOICES)
    )
    if not texts:
        checks.refuse("choice", texts, f"a list of 1 to {_MOST_CHOICES} texts")
    _source("choice", "\n".join(texts))
    return texts


def _mark(field: str, value: object) -> None:
    text = checks.text(field, value, "a text that is not empty")
    if len(text.encode(errors="surrogatepass")) > _MOST_MARK:
        checks.refuse(field, value, f"a text of at most {_MOST_MARK} bytes")
