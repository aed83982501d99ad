"""The Jinja environment of chat templates: what transformers gives them, within bounds of time and memory.

A template is part of a checkpoint that anyone may have made, and what it works on is part of a request. Must not know
of messages.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

__all__ = ["BoundExceeded", "render", "template_environment"]

_MOST_STEPS = 2_000_000
"""Passes through loops, over all loops of a rendering; templates take a few for each message."""
_MOST_SECONDS = 5.0
_MOST_CHARACTERS = 64_000_000
"""Of a rendering, or of one text within it."""
_CHECK_EVERY = 256
_WIDEST = 9_999
_WIDTHS = re.compile(r"\d{5}")
_PADDING = frozenset(("ljust", "rjust", "center", "zfill", "expandtabs", "format", "format_map"))


class BoundExceeded(jinja2.TemplateError):
    """A rendering took too long or grew too large."""


class _Budget:
    """What is left to one rendering."""

    __slots__ = ("_end", "_steps")

    def __init__(self) -> None:
        self._steps = _MOST_STEPS
        self._end = time.monotonic() + _MOST_SECONDS

    def spend(self, steps: int) -> None:
        """Take steps away; raises when none are left, or the time is over."""
        self._steps -= steps
        if self._steps < 0:
            raise BoundExceeded(f"its loops take more than {_MOST_STEPS} steps")
        if time.monotonic() > self._end:
            raise BoundExceeded(f"it takes more than {_MOST_SECONDS:g} seconds")


_budget: ContextVar[_Budget] = ContextVar("budget")


class _Counted:
    """What a loop goes over, counted; knows its length where the thing itself does."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        budget = _budget.get()
        for at, item in enumerate(self._items, 1):
            if at % _CHECK_EVERY == 0:
                budget.spend(_CHECK_EVERY)
            yield item
        budget.spend(1)

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # where it has none, TypeError is what Jinja expects

    def __bool__(self) -> bool:
        return bool(self._items)


def _check_size(characters: int) -> None:
    if characters > _MOST_CHARACTERS:
        raise BoundExceeded(f"it makes a text of more than {_MOST_CHARACTERS} characters")


def _check_replaced(text: str, old: Any, new: Any, *_: Any) -> None:
    if isinstance(old, str) and isinstance(new, str) and len(new) > len(old):
        found = text.count(old)
        _check_size(len(text) + found * (len(new) - len(old)))


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """In place of Jinja's own filter."""
    _check_replaced(str(text), str(old), str(new))
    return str(text).replace(str(old), str(new), -1 if count is None else count)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Sandboxed as transformers has it; its loops are counted and its products bounded."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """A product or sum that would be larger than any prompt is refused."""
        if operator == "+":
            if isinstance(left, str | list) and isinstance(right, str | list):
                _check_size(len(left) + len(right))
            return super().call_binop(context, operator, left, right)
        sizes = [len(side) if isinstance(side, str | list | tuple) else side for side in (left, right)]
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            if all(isinstance(size, int) for size in sizes):
                _check_size(sizes[0] * sizes[1])
        elif operator == "**" and all(isinstance(size, int) for size in sizes) and abs(left * right) > 10_000:
            raise BoundExceeded("it raises numbers to powers that no prompt needs")
        elif operator == "%" and isinstance(left, str) and len(left) > 2 and any(map(str.isdigit, left)):
            raise BoundExceeded("it formats with widths, which no prompt needs")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A method of a text that would make it larger than any prompt is refused."""
        text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if name in _PADDING and any(isinstance(width, int) and width > _WIDEST for width in (*args, *kwargs.values())):
            raise BoundExceeded(f"it pads a text to more than {_WIDEST} characters")
        if isinstance(text, str) and args:
            if name == "replace":
                _check_replaced(text, *args)
            elif name == "join" and isinstance(args[0], Sequence):
                _check_size(len(text) * len(args[0]))
        return super().call(context, method, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        """As the sandbox has it, but no width within a format may be larger than any prompt needs."""
        if getattr(value, "__name__", "") in ("format", "format_map") and _WIDTHS.search(str(value.__self__)):
            raise BoundExceeded(f"it pads a text to more than {_WIDEST} characters")
        return super().wrap_str_format(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(jinja2.nodes.For):
            loop.iter = jinja2.nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return template


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks what an assistant wrote, for training; rendering passes it through."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, > and & for HTML; models were trained on plain JSON.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _no_wider(value: Any, width: int = 80, *_: Any, **__: Any) -> str:
    """In place of filters that pad to a width."""
    text = str(value)
    return text.center(min(width, _WIDEST))


def template_environment() -> jinja2.Environment:
    """An environment in which to compile one model's templates."""
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.filters["counted"] = _Counted
    environment.filters["center"] = _no_wider
    environment.filters["replace"] = _replace
    # Of no use to a prompt, and with a width or a filling of any size.
    for name in ("batch", "slice", "format", "wordwrap"):
        del environment.filters[name]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The template's text. Raises BoundExceeded, and whatever the template raises."""
    token = _budget.set(_Budget())
    try:
        pieces: list[str] = []
        length = 0
        for piece in template.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > _MOST_CHARACTERS:
                raise BoundExceeded(f"it writes more than {_MOST_CHARACTERS} characters")
        return "".join(pieces)
    finally:
        _budget.reset(token)
