"""Templates of fifty families over conversations of every kind: what transformers' own renderer makes of them.

They stand in `corpus/`, each written from its format: marks, order, layout and what they ask of a renderer are those of
the models; the wording about tools is shortened.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest

from candle_vllm.chat import ChatTemplate, ChatTemplateError

render_jinja_template = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template

FILES = sorted((Path(__file__).parent / "corpus").glob("*.jinja"))
TEMPLATES = {file.stem: file.read_text(encoding="utf-8") for file in FILES}
ARGUMENTS_AS_TEXT = {"deepseek_v3", "deepseek_r1", "functionary", "internlm2"}
"""Templates that add a call's arguments to a text, and so want them as one; others write `arguments | tojson`."""
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'The weather of a "place" <now> & then; füñf 天',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name"},
                    "days": {"type": "integer", "minimum": 1},
                    "units": {"type": "string", "enum": ["metric", "imperial"]},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
    },
]
DOCUMENTS = [{"title": "Seas", "text": "The sea is <wide> & deep.\n"}, {"title": "Skies", "text": "Blue."}]


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(number: int, name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"abcdefgh{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


USER, SYSTEM = said("user", '  What\'s <the> weather & "time"?\n'), said("system", "Be brief. 🦀 \u2028")
CALL = call(1, "get_weather", '{"city": "Zürich <&>", "days": 2, "tags": ["a", "b"]}')
CALLED = said("assistant", "", tool_calls=[CALL])
RESULT = said("tool", '{"temp": 21, "sky": "klar"}', tool_call_id="abcdefgh1", name="get_weather")
THOUGHT = said("assistant", "<think>\nHm.\n</think>\n\nRain.")
TWO = [
    said("assistant", "Both:", tool_calls=[CALL, call(2, "now", "{}")]),
    RESULT,
    said("tool", "noon", tool_call_id="abcdefgh2", name="now"),
]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one": ([USER], {}),
    "closed": ([SYSTEM, USER, said("assistant", "Rain. ")], {"add_generation_prompt": False}),
    "system": ([SYSTEM, USER], {}),
    "turns": ([SYSTEM, USER, said("assistant", " Rain.\n"), said("user", "And now?")], {}),
    "thought": ([USER, THOUGHT, said("user", "And now?")], {}),
    "thought last": ([USER, THOUGHT], {"add_generation_prompt": False}),
    "reasoning": (
        [USER, said("assistant", "Rain.", reasoning_content=" Hm. "), said("user", "So?")],
        {},
    ),
    "reasoning last": ([USER, said("assistant", "Rain.", reasoning="Hm.")], {"add_generation_prompt": False}),
    "tools": ([USER], {"tools": TOOLS}),
    "tools and system": ([SYSTEM, USER], {"tools": TOOLS}),
    "call": ([USER, CALLED, RESULT], {"tools": TOOLS}),
    "answered": (
        [SYSTEM, USER, CALLED, RESULT, said("assistant", "21 degrees."), said("user", "ok")],
        {"tools": TOOLS},
    ),
    "two calls": ([USER, *TWO], {"tools": TOOLS}),
    "no thinking": ([USER], {"variables": {"enable_thinking": False, "thinking": False, "reasoning_effort": "high"}}),
    "budget": ([SYSTEM, USER], {"variables": {"thinking": True, "thinking_budget": 512}}),
    "documents": ([SYSTEM, USER], {"documents": DOCUMENTS}),
    "begun": ([USER, said("assistant", "It is")], {"add_generation_prompt": False, "continue_final_message": True}),
    "begun and spaced": (
        [USER, said("assistant", "It is  ")],
        {"add_generation_prompt": False, "continue_final_message": True},
    ),
    "roles in disorder": ([said("assistant", "Hi"), USER], {}),
}


def theirs(name: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """What transformers gives; arguments as the template's maker has them there."""
    given = copy.deepcopy(messages)
    for message in given:
        for each in message.get("tool_calls", ()):
            if name not in ARGUMENTS_AS_TEXT:
                each["function"]["arguments"] = json.loads(each["function"]["arguments"])
    others = {key: value for key, value in options.items() if key != "variables"}
    others.setdefault("add_generation_prompt", True)
    [text], _ = render_jinja_template(
        [given], chat_template=TEMPLATES[name], **others, **SPECIAL, **options.get("variables", {})
    )
    return str(text)


def test_there_are_fifty() -> None:
    assert len(set(TEMPLATES.values())) >= 50
    assert set(TEMPLATES) >= ARGUMENTS_AS_TEXT


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_rendered_as_transformers_renders_it(name: str) -> None:
    ours = ChatTemplate(TEMPLATES[name], SPECIAL)
    good = 0
    for label, (messages, options) in CONVERSATIONS.items():
        if any("tool_calls" in message for message in messages) and not ours.mentions("tool_calls"):
            # Where transformers would leave the calls out, they are refused here.
            with pytest.raises(ChatTemplateError, match="no place for tool calls"):
                ours.render(messages, **options)
            continue
        try:
            wanted = theirs(name, messages, options)
        except Exception as error:
            said_there = str(error) if type(error) is jinja2.TemplateError else "chat template"
            with pytest.raises(ChatTemplateError, match=re.escape(said_there)):
                ours.render(messages, **options)
            continue
        assert ours.render(messages, **options) == wanted, label
        good += 1
    assert good >= 5


@pytest.mark.parametrize("name", ["gemma3", "llama4", "glm4_5"])
def test_parts_for_templates_that_take_them(name: str) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [{"role": "user", "content": parts}]
    assert ChatTemplate(TEMPLATES[name], SPECIAL).render(messages) == theirs(name, messages, {})


@pytest.mark.parametrize("name", sorted(ARGUMENTS_AS_TEXT))
def test_arguments_that_came_as_an_object(name: str) -> None:
    """Conversations in process may have them parsed; a template that wants text gets text."""
    parsed = copy.deepcopy(CALLED)
    parsed["tool_calls"][0]["function"]["arguments"] = json.loads(CALL["function"]["arguments"])
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    assert template.render([USER, parsed, RESULT]) == template.render([USER, CALLED, RESULT])
