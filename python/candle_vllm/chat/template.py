"""A model's own chat template, rendered as transformers renders it: sandboxed Jinja2, compiled once.

Takes plain dictionaries shaped as OpenAI's messages and gives the prompt's text.
Must not know of HTTP, of requests' other fields, or of how the engine computes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.nodes

from candle_vllm.chat.environment import render, template_environment

Message = dict[str, Any]

_PROBE = "8f14e45f"
_PROBE_ARGUMENTS = f'{{"{_PROBE}":"x"}}'
# Some templates want ids of nine characters.
_PROBE_CALL: Message = {"id": "abcdefgh9", "type": "function"}
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
# The space at its end tells whether the template trims what it is given.
_CONTINUE_MARK = "CONTINUE_8f14e45f_FINAL_MESSAGE "


class ChatTemplateError(ValueError):
    """The template, or the lack of one, cannot turn these messages into a prompt.

    ``field`` names the request's field to blame.
    """

    def __init__(self, message: str, field: str = "messages") -> None:
        super().__init__(message)
        self.field = field


def _words(template: jinja2.nodes.Template) -> frozenset[str]:
    """Every name, attribute and whole text constant in a template."""
    names = {node.name for node in template.find_all(jinja2.nodes.Name)}
    attributes = {node.attr for node in template.find_all(jinja2.nodes.Getattr)}
    constants = {node.value for node in template.find_all(jinja2.nodes.Const) if isinstance(node.value, str)}
    return frozenset(names | attributes | constants)


class ChatTemplate:
    """One compiled template and the special tokens it may write.

    ``source`` is Jinja text; ``special_tokens`` maps names such as ``bos_token`` to their text.
    Raises :class:`ChatTemplateError` when the source is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        self._special_tokens = dict(special_tokens or {})
        environment = template_environment()
        try:
            self._words = _words(environment.parse(source))
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(
                f"the model's chat template does not compile: {error.message} (line {error.lineno})", "model"
            ) from error
        self._source = source
        self._takes_text: bool | None = None
        self._takes_parts: bool | None = None
        self._wants_text: bool | None = None

    @property
    def source(self) -> str:
        """The Jinja text."""
        return self._source

    def mentions(self, name: str) -> bool:
        """Whether the template uses ``name``: as a variable, a key, or a text by itself such as a role."""
        return name in self._words

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation.

        ``variables`` are given to the template beside the standard ones. ``continue_final_message``
        leaves the last message open, so that the model goes on writing it; it excludes
        ``add_generation_prompt``. Raises :class:`ChatTemplateError` for what the template refuses.
        """
        if continue_final_message and add_generation_prompt:
            raise ChatTemplateError(
                "continue_final_message and add_generation_prompt exclude each other", "continue_final_message"
            )
        prepared = [self._prepare(message, at) for at, message in enumerate(messages)]
        if continue_final_message:
            _mark_end(prepared)
        text = self._render(
            prepared,
            tools=list(tools) if tools else None,
            documents=list(documents) if documents else None,
            add_generation_prompt=add_generation_prompt,
            **dict(variables or {}),
        )
        return _cut_at_mark(text) if continue_final_message else text

    def _render(self, messages: list[Message], **variables: Any) -> str:
        try:
            return render(self._template, {"messages": messages, **self._special_tokens, **variables})
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template refuses these messages: {error.message}") from error
        except (
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            OverflowError,
            MemoryError,
        ) as error:
            raise ChatTemplateError(f"the model's chat template fails on these messages: {error}") from error

    def _prepare(self, message: Mapping[str, Any], at: int) -> Message:
        """A copy of one message with content, role and tool calls in the form that templates expect."""
        prepared = {key: value for key, value in message.items() if value is not None}
        if prepared.get("role") == "developer" and not self.mentions("developer"):
            prepared["role"] = "system"
        prepared["content"] = self._content(message.get("content"), at)
        thought = next((prepared[name] for name in _THOUGHTS if name in prepared), None)
        if thought is not None:
            # Templates read one of these names; which one clients send is another matter.
            prepared = {"thinking": thought, **prepared, "reasoning_content": thought}
        calls = prepared.get("tool_calls")
        if calls:
            if not self.mentions("tool_calls"):
                raise ChatTemplateError(
                    "the model's chat template has no place for tool calls", f"messages[{at}].tool_calls"
                )
            as_text = self._arguments_are_text()
            prepared["tool_calls"] = [_with_arguments(call, at, as_text) for call in calls]
        else:
            prepared.pop("tool_calls", None)
        return prepared

    def _content(self, content: Any, at: int) -> Any:
        if content is None:
            # Templates add content to strings; an absent one is an empty one to them.
            content = ""
        if isinstance(content, str):
            if content and not self._text_is_taken() and self._parts_are_taken():
                return [{"type": "text", "text": content}]
            return content
        parts = [_text_part(part, at, index) for index, part in enumerate(content)]
        if self._parts_are_taken():
            return [{"type": "text", "text": part} for part in parts]
        return "\n".join(parts)

    def _text_is_taken(self) -> bool:
        if self._takes_text is None:
            self._takes_text = self._shows_probe(_PROBE)
        return self._takes_text

    def _parts_are_taken(self) -> bool:
        if self._takes_parts is None:
            self._takes_parts = self._shows_probe([{"type": "text", "text": _PROBE}])
        return self._takes_parts

    def _arguments_are_text(self) -> bool:
        """Whether the template writes a call's arguments as they are, and so wants JSON text; found by trying it."""
        if self._wants_text is None:
            as_object, as_text = (self._shown_call(arguments) for arguments in ({_PROBE: "x"}, _PROBE_ARGUMENTS))
            # An object that is added to a text fails, or shows as Python writes it; a text that is made JSON is quoted.
            good = _PROBE in as_object and f"'{_PROBE}'" not in as_object
            self._wants_text = not good and _PROBE_ARGUMENTS in as_text
        return self._wants_text

    def _shown_call(self, arguments: Any) -> str:
        function = {"name": "probe", "arguments": arguments}
        messages: list[Message] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL | {"function": function}]},
            {"role": "tool", "content": "x", "name": "probe", "tool_call_id": _PROBE_CALL["id"]},
        ]
        try:
            return self._render(messages, tools=[{"type": "function", "function": {"name": "probe"}}])
        except ChatTemplateError:
            return ""

    def _shows_probe(self, content: Any) -> bool:
        """Whether content of this form comes out as its text alone, found by trying it."""
        try:
            text = self._render([{"role": "user", "content": content}], add_generation_prompt=True)
        except ChatTemplateError:
            return False
        # A template that knows no parts prints the list itself, quotes, braces and all.
        return _PROBE in text and f"'{_PROBE}'" not in text and f'"{_PROBE}"' not in text


def _text_part(part: Any, at: int, index: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return str(part.get(kind, ""))
    raise ChatTemplateError(
        f"content parts of type {kind!r} are not supported by this model; send text",
        f"messages[{at}].content[{index}].type",
    )


def _with_arguments(call: Mapping[str, Any], at: int, as_text: bool) -> Message:
    """A copy with its arguments as the template wants them; OpenAI's requests carry their text."""
    prepared = copy.deepcopy(dict(call))
    function = prepared.get("function")
    if not isinstance(function, dict):
        return prepared
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ChatTemplateError(
                f"tool call arguments must be a JSON text: {error}", f"messages[{at}].tool_calls"
            ) from error
        function["arguments"] = (arguments or "{}") if as_text else parsed
    elif as_text:
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return prepared


def _mark_end(messages: list[Message]) -> None:
    if not messages or not messages[-1]["content"]:
        raise ChatTemplateError("continue_final_message needs a last message with content", "continue_final_message")
    content = messages[-1]["content"]
    if isinstance(content, str):
        messages[-1]["content"] = content + _CONTINUE_MARK
    else:
        content[-1]["text"] += _CONTINUE_MARK


def _cut_at_mark(text: str) -> str:
    found = text.count(_CONTINUE_MARK.rstrip())
    if found != 1:
        raise ChatTemplateError(
            f"the model's chat template shows the last message {found} times, so it cannot be continued",
            "continue_final_message",
        )
    at = text.find(_CONTINUE_MARK.rstrip())
    trimmed = not text.startswith(_CONTINUE_MARK, at)
    return text[:at].rstrip() if trimmed else text[:at]


class ChatTemplates:
    """All the templates of one model, each compiled when first needed.

    ``sources`` is one Jinja text or a mapping of names (``default``, ``tool_use``, ``rag``) to texts.
    """

    def __init__(
        self, sources: Mapping[str, str] | str | None, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        self._sources = {"default": sources} if isinstance(sources, str) else dict(sources or {})
        self._special_tokens = special_tokens
        self._compiled: dict[str, ChatTemplate] = {}

    def choose(self, *, with_tools: bool = False, with_documents: bool = False) -> ChatTemplate:
        """The template for a request: that for tools, or else that for documents, where there is one and it has any.

        Raises :class:`ChatTemplateError` when the model has no template.
        """
        wanted = [name for name, needed in (("tool_use", with_tools), ("rag", with_documents)) if needed]
        name = next((name for name in wanted if name in self._sources), "default")
        if name not in self._sources:
            raise ChatTemplateError(
                "this model has no chat template; send a finished prompt to /v1/completions instead", "model"
            )
        if name not in self._compiled:
            self._compiled[name] = ChatTemplate(self._sources[name], self._special_tokens)
        return self._compiled[name]
