"""Chat templates: what transformers gives for the same input (checked against its 5.23), and what is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from candle_vllm.chat import ChatTemplate, ChatTemplateError, ChatTemplates

CHATML = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
PARTS_ONLY = """{% for m in messages %}{% for p in m.content -%}
{% if p.type == 'text' %}<{{ p.text }}>{% endif %}
{%- endfor %}{% endfor %}"""
BOTH = """{% for m in messages %}{% if m.content is string %}[{{ m.content }}]{% else -%}
{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"""
TRIMMING = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{{ eos_token }}{% endfor %}"
USER = {"role": "user", "content": "hi"}


def render(source: str, *messages: dict[str, Any], **options: Any) -> str:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(source, special).render(messages or (USER,), **options)


def test_a_conversation() -> None:
    text = render(CHATML, {"role": "system", "content": "be brief"}, USER)
    assert text == "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert not render(CHATML, add_generation_prompt=False).endswith("assistant\n")


def test_blocks_are_trimmed_as_transformers_does() -> None:
    source = "{% if true %}\n  {% set x = 1 %}\n    a{{ x }}\n  {# gone #}\n{% endif %}\nb\n"
    assert render(source) == "    a1\nb"


def test_what_templates_call() -> None:
    assert render("{{ bos_token }}{{ eos_token }}{{ nothing }}") == "<s></s>"
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)
    assert render("{% for x in [1,2,3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}") == "13"
    assert render("a{% generation %}b{% set c = 1 %}{% endgeneration %}c") == "abc"
    tools = [{"b": "é<&>'", "a": [1, 2.5, None, True]}]
    assert render("{{ tools | tojson }}", tools=tools) == '[{"b": "é<&>\'", "a": [1, 2.5, null, true]}]'
    assert render("{{ tools | tojson(indent=2) }}", tools=[{"a": 1}]) == '[\n  {\n    "a": 1\n  }\n]'
    assert render("{{ tools is none }}{{ documents is none }}") == "TrueTrue"
    assert render("{{ documents[0].text }}", documents=[{"text": "d"}]) == "d"
    assert render("{{ enable_thinking }}", variables={"enable_thinking": False}) == "False"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no such role') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ nothing.x.y }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_templates_that_refuse_fail_or_reach_out(source: str) -> None:
    with pytest.raises(ChatTemplateError) as refusal:
        render(source)
    assert refusal.value.field == "messages"


def test_the_template_s_own_words_are_told() -> None:
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_template_that_does_not_compile() -> None:
    with pytest.raises(ChatTemplateError, match="line 2"):
        ChatTemplate("a\n{% if %}")


def test_parts_become_what_the_template_takes() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert "a\nb<|im_end|>" in render(CHATML, parts)
    assert render(PARTS_ONLY, parts) == "<a><b>"
    assert render(PARTS_ONLY, USER) == "<hi>"
    assert render(BOTH, parts, USER) == "<a><b>[hi]"
    with pytest.raises(ChatTemplateError, match="image_url") as refusal:
        render(CHATML, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})
    assert refusal.value.field == "messages[0].content[0].type"


def test_content_that_is_null() -> None:
    assert "assistant\n<|im_end|>" in render(CHATML, USER, {"role": "assistant", "content": None}, USER)


def test_the_developer_is_the_system_where_the_template_knows_none() -> None:
    developer = {"role": "developer", "content": "x"}
    assert "<|im_start|>system\nx" in render(CHATML, developer)
    knows = (
        "{% for m in messages %}{% if m.role == 'developer' %}D{% else %}a software developer{% endif %}{% endfor %}"
    )
    assert render(knows, developer) == "D"
    mentions = "{% for m in messages %}{{ m.role }}{% endfor %} for a software developer"
    assert render(mentions, developer) == "system for a software developer"


def test_tool_calls_are_given_as_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1]}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    source = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.x[0] }}{% endfor %}{% endfor %}"
    assert render(source, message) == "1"
    assert call["function"] == {"name": "f", "arguments": '{"x": [1]}'}
    with pytest.raises(ChatTemplateError, match="JSON"):
        render(source, {**message, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]})
    with pytest.raises(ChatTemplateError, match="no place for tool calls"):
        render(CHATML, message)


def test_the_last_message_is_continued() -> None:
    answer = {"role": "assistant", "content": "The capital is "}
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert render(CHATML, USER, answer, **options).endswith("<|im_start|>assistant\nThe capital is ")
    # A template that trims would have trimmed the open message too.
    assert render(TRIMMING, USER, answer, **options) == "user: hi</s>assistant: The capital is"
    parts = {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert render(BOTH, USER, parts, **options) == "[hi]<a><b"
    for refused in ("{{ messages[0].content }}", "{{ messages[1].content }}{{ messages[1].content }}"):
        with pytest.raises(ChatTemplateError, match="cannot be continued"):
            render(refused, USER, answer, **options)
    with pytest.raises(ChatTemplateError, match="exclude each other"):
        render(CHATML, USER, answer, continue_final_message=True)


def test_messages_are_not_changed() -> None:
    message = {"role": "developer", "content": [{"type": "text", "text": "a"}], "name": None}
    before = repr(message)
    render(CHATML, message, add_generation_prompt=False, continue_final_message=True)
    assert repr(message) == before


def test_choosing_among_templates() -> None:
    templates = ChatTemplates({"default": "plain", "tool_use": "tools"})
    assert templates.choose().render([USER]) == "plain"
    assert templates.choose(with_tools=True).render([USER]) == "tools"
    assert templates.choose() is templates.choose()
    assert ChatTemplates("only").choose(with_tools=True).render([USER]) == "only"
    absent: tuple[dict[str, str] | None, ...] = ({}, None)
    for nothing in absent:
        with pytest.raises(ChatTemplateError, match="no chat template"):
            ChatTemplates(nothing).choose()
