"""What a browser keeps of a conversation, and what a model is sent of it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from candle_vllm.openai import ChatCompletionRequest
from candle_vllm.ui.conversation import Answer, CallPart, Conversation, Question, TextPart


def asked(*texts: str) -> Conversation:
    conversation = Conversation()
    for text in texts:
        conversation.ask(text)
        conversation.messages.append(Answer(parts=[TextPart(text=text.upper())], ended="stop"))
    return conversation


def test_the_first_question_is_the_title() -> None:
    assert asked("  what\nis   this?", "more").title == "what is this?"
    assert len(asked("x" * 500).title) == 60
    assert asked(" \n ").title == "Untitled"


def test_what_a_model_is_sent() -> None:
    conversation = asked("one")
    conversation.ask("two")
    messages = conversation.sent("Be brief.")
    assert [(one["role"], one["content"]) for one in messages] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "ONE"),
        ("user", "two"),
    ]
    assert conversation.sent(" ")[0]["role"] == "user"
    ChatCompletionRequest.model_validate({"model": "", "messages": messages})


def test_answers_of_nothing_leave_one_question() -> None:
    conversation = Conversation(
        messages=[Question(text="a"), Answer(ended="failed", error="no"), Question(text="b"), Answer()]
    )
    assert conversation.sent("") == [{"role": "user", "content": "a\n\nb"}]
    assert [message.role for message in conversation.messages] == ["user", "assistant", "user", "assistant"]


def test_thoughts_stay_here_and_calls_go_back() -> None:
    answer = Answer()
    answer.add("reasoning", "hm", 1)
    answer.add("text", "Let me ", 1)
    answer.add("text", "look.", 1)
    answer.parts.append(CallPart(id="c1", name="count", server="shelf", arguments="{}", output="5"))
    answer.parts.append(CallPart(id="c2", name="count", server="shelf", arguments="{"))
    answer.add("text", "Five.", 2)
    assert [part.kind for part in answer.parts] == ["reasoning", "text", "call", "call", "text"]
    assert answer.text == "Let me look.\n\nFive."
    sent = answer.sent()
    assert sent is not None and sent["content"] == answer.text
    assert [(call["id"], call["output"], call["turn"]) for call in sent["mcp_calls"]] == [("c1", "5", 1)]
    ChatCompletionRequest.model_validate({"model": "", "messages": [{"role": "user", "content": "?"}, sent]})


def test_cut() -> None:
    conversation = asked("one", "two")
    conversation.cut(2)
    assert [type(message) for message in conversation.messages] == [Question, Answer]


def test_as_the_browser_keeps_it() -> None:
    conversation = asked("one")
    conversation.messages[1].parts.append(CallPart(id="c", name="n"))  # type: ignore[union-attr]
    assert Conversation.model_validate_json(conversation.model_dump_json()) == conversation
    with pytest.raises(ValidationError):
        Conversation.model_validate({"id": "'); alert(1); ('"})
