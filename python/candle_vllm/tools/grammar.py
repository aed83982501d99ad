"""Grammars that hold a model to its tool calls: text in llguidance's dialect of Lark, built rule by rule.

Knows how schemas and special tokens are written there; what a call looks like is each format's business.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from candle_vllm.errors import ConfigError

from .schemas import Tool, kinds_of, text_bounds

__all__ = ["Lark", "choices", "json_answer"]

# Layout as `json.dumps` writes it or compact; free white space lets small models write nothing else.
_JSON_LAYOUT = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}


class Lark:
    """The rules of one grammar. `special` maps texts that are tokens of their own to their ids.

    Methods give expressions to build others from; equal rules are written once.
    """

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = {text: special[text] for text in sorted(special, key=len, reverse=True)}
        self._rules: dict[tuple[str, str], str] = {}
        self._named: dict[str, str] = {}
        self._bodies: dict[str, str] = {}
        self._terminals = {"/(?s:.*)/": "TEXT"}

    def choose(self, tools: Sequence[Tool], choice: str) -> list[Tool]:
        """The tools that a choice leaves."""
        chosen = [tool for tool in tools if choice in ("auto", "required", tool.name)]
        if not chosen:
            known = [tool.name for tool in tools]
            near = difflib.get_close_matches(choice, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"tool_choice {choice!r} names none of the tools {known}{hint}")
        for tool in chosen:
            _check_strict(tool)
        return chosen

    def text(self, start: str) -> str:
        """The whole grammar."""
        rules = [f"{name}{options}: {body}" for (body, options), name in self._rules.items()]
        terminals = [f"{name}: {body}" for body, name in self._terminals.items()]
        named = [f"{name}: {body}" for name, body in self._bodies.items()]
        return "\n".join(["%llguidance {}", f"start: {start}", *rules, *named, *terminals]) + "\n"

    def rule(self, body: str, options: str = "") -> str:
        """The name of a rule with this body and llguidance's options."""
        return self._rules.setdefault((body, f"[{options}]" if options else ""), f"r{len(self._rules)}")

    def recursive(self, key: str, body: Callable[[], str]) -> str:
        """The rule of this key, whose body may name it: made once, when first asked for."""
        name = self._named.get(key)
        if name is None:
            name = self._named[key] = f"n{len(self._named)}"
            self._bodies[name] = body()
        return name

    def either(self, choices: Iterable[str]) -> str:
        """One of these."""
        unique = list(dict.fromkeys(choices))
        return unique[0] if len(unique) == 1 else self.rule(" | ".join(unique))

    def literal(self, text: str) -> str:
        """This text, its special tokens as tokens; "" for no text."""
        return " ".join(self._parts(text))

    def _parts(self, text: str) -> list[str]:
        for mark, id_ in self._special.items():
            before, found, after = text.partition(mark)
            if found:
                return [*self._parts(before), f"<[{id_}]>", *self._parts(after)]
        return [json.dumps(text, ensure_ascii=False)] if text else []

    def until(self, end: str) -> str:
        """Any text up to and with `end`."""
        first, *rest = self._parts(end)
        if first.startswith("<["):
            return " ".join(("TEXT?", first, *rest))
        if rest:
            name = self._terminals.setdefault(f"/(?s:.*)/ {first}", f"UPTO{len(self._terminals)}")
            return " ".join((name, *rest))
        return self.rule("/(?s:.*)/", f"suffix={first}")

    def json(self, schema: Any, *, strict: bool) -> str:
        """JSON that fits a schema; what llguidance cannot enforce is an error for `strict`, else it is ignored."""
        body = dict(schema) if isinstance(schema, Mapping) else {}
        body["x-guidance"] = {**_JSON_LAYOUT, "lenient": not strict}
        return self.rule(f"%json {json.dumps(body, ensure_ascii=False)}")

    def arguments(self, tool: Tool) -> str:
        """A tool's arguments as one JSON object, closed unless its schema opens it."""
        properties = {
            name: schema if isinstance(schema, Mapping | bool) else {} for name, schema in tool.properties.items()
        }
        schema = {**tool.parameters, "type": "object", "properties": properties, "required": sorted(tool.required)}
        if not tool.open and not _combines(schema):
            schema["additionalProperties"] = False
        return self.json(schema, strict=tool.strict)

    def raw(self, schema: Any, tool: Tool, end: str) -> str:
        """A value written as plain text where it may be a string and as JSON where not, with the `end` that follows."""
        kinds = kinds_of(schema, tool.parameters)
        values = choices(schema)
        if values is not None:
            plain = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
            return f"{self.either(map(self.literal, plain))} {self.literal(end)}"
        if kinds and "string" not in kinds:
            return f"{self.json(schema, strict=tool.strict)} {self.literal(end)}"
        self.refuse(text_bounds(schema, tool.parameters), tool)
        return self.until(end)

    def refuse(self, keywords: frozenset[str], tool: Tool) -> None:
        """An error where a strict tool's schema says what this way of writing cannot enforce."""
        if tool.strict and keywords:
            raise ConfigError(
                f"the strict tool {tool.name!r} uses {min(keywords)!r}, which cannot be enforced in the notation of "
                "this model's tool calls; leave it out or set strict to false"
            )

    def sequence(self, items: Sequence[tuple[str, bool]], separator: str) -> str:
        """Items in this order, those that are not required left out at will, separators between; "" for none."""
        between = self.literal(separator)
        first = after = ""
        for item, required in reversed(items):
            begun = f"{item} {after}".strip()
            if required:
                first = begun
            elif first:
                first = self.rule(f"{begun} | {first}")
            else:
                first = f"({begun})?"
            following = f"{between} {item}".strip()
            after = self.rule(f"{following if required else f'({following})?'} {after}".strip())
        return first

    def thinking(self, marks: tuple[str, str] | None) -> str:
        """What may or must come before an answer: thinking between two marks, the first "" where it has begun."""
        if marks is None:
            return ""
        opening, closing = marks
        thought = " ".join(filter(None, (self.literal(opening), self.until(closing), r"(/\s+/)?")))
        return f"({self.rule(thought)})?" if opening else self.rule(thought)

    def lazily(self, opening: str, body: str, parallel: bool, begins: str, separator: str = "") -> str:
        """Free text in which a call, once begun, is held to its grammar.

        Where nothing opens calls, free text is what begins with none of the characters `begins`.
        """
        if not opening:
            more = f" ({self.literal(separator)} {body})*" if parallel else ""
            return f"/[^\\s{re.escape(begins)}](?s:.*)/ | {body}{more}"
        first, *rest = self._parts(opening)
        call = " ".join((*rest, body))
        if first.startswith("<["):
            return f"(TEXT? {first} {call})* TEXT?" if parallel else f"TEXT? ({first} {call})?"
        if rest:
            head = self.until(opening)
            return f"({head} {body})* TEXT?" if parallel else f"TEXT | {head} {body}"
        head = self.rule(f"TEXT {first}", "lazy")
        end = self.rule("TEXT")
        return f"({head} {body})* {end}" if parallel else f"{end} | {head} {body}"


def json_answer(
    schema: Any,
    thinking: tuple[str, str] | None = None,
    special: Mapping[str, int] | None = None,
    *,
    strict: bool = True,
) -> str:
    """A grammar of answers that are JSON of a schema, thinking before them allowed as in `Format.grammar`."""
    lark = Lark(special or {})
    return lark.text(f"{lark.thinking(thinking)} {lark.json(schema, strict=strict)}".strip())


def _check_strict(tool: Tool) -> None:
    """An error where a strict tool's schema is none: what others say nothing with cannot be held here."""
    if not tool.strict:
        return
    properties, required = tool.parameters.get("properties", {}), tool.parameters.get("required", [])
    if not isinstance(properties, Mapping) or not all(isinstance(each, Mapping | bool) for each in properties.values()):
        problem = "'properties' must be an object of schemas"
    elif not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        problem = "'required' must be a list of names"
    else:
        return
    raise ConfigError(f"the strict tool {tool.name!r} has no schema that can be enforced: {problem}")


def _combines(schema: Mapping[str, Any]) -> bool:
    return any(key in schema for key in ("anyOf", "oneOf", "allOf", "$ref", "patternProperties"))


def choices(schema: Any) -> list[Any] | None:
    """The values that a schema lists; None when it lists none."""
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) and values else None
