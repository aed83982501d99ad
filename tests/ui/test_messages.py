"""Messages on a page: what an answer shows while it comes, at its end, and of the tools it called."""

from __future__ import annotations

import asyncio

from nicegui import ui

from candle_vllm.models import WaitStatus
from candle_vllm.ui.conversation import Answer, CallPart, Question, TextPart
from candle_vllm.ui.messages import AnswerView, QuestionView
from candle_vllm.ui.progress import Loading

from .elements import blank_page, named, of, press, said


async def test_a_question_is_edited_or_left_as_it_was() -> None:
    edited: list[str] = []
    with blank_page() as client:
        QuestionView(Question(text="Why?"), edited.append)
        press(named(client, "Edit"))
        (box,) = of(client, ui.textarea)
        assert box.value == "Why?"
        press(named(client, "Cancel"))
        assert said(client) == ["Why?"]
        press(named(client, "Edit"))
        (box,) = of(client, ui.textarea)
        box.value = "Why not?"
        press(named(client, "Send"))
        await asyncio.sleep(0)
        assert edited == ["Why not?"]


async def test_an_answer_that_waits_says_for_what() -> None:
    with blank_page() as client:
        view = AnswerView(Answer(), lambda: None)
        await view.show(WaitStatus("loading", 1, "m"), Loading("weights", 1, 4), ended=False)
        assert "Loading m (weights 25%). Position 1" in said(client)
        assert [bar.value for bar in of(client, ui.linear_progress)] == [0.25]


async def test_an_answer_as_it_comes_and_whole() -> None:
    answer, again = Answer(model="m"), list[bool]()
    with blank_page() as client:
        view = AnswerView(answer, lambda: again.append(True))
        answer.parts.append(TextPart(kind="reasoning", text="hm"))
        await view.show(ended=False)
        (fold,) = of(client, ui.expansion)
        assert fold.text == "Thinking …"
        answer.parts.append(TextPart(text="Yes"))
        answer.tokens = 2
        await view.show(ended=False)
        assert fold.text == "Thoughts"
        assert not view._copy.visible and not view._again.visible
        answer.parts[-1].text += ", **no**"  # type: ignore[union-attr]
        answer.ended = "stop"
        await view.show()
        assert "<p>Yes, <strong>no</strong></p>" in [one.content.strip() for one in of(client, ui.html)]
        assert "m · 2 tokens" in said(client)
        press(named(client, "Regenerate"))
        await asyncio.sleep(0)
        assert again == [True]


async def test_a_failure_is_told() -> None:
    with blank_page() as client:
        view = AnswerView(Answer(ended="failed", error="the model left"), lambda: None)
        await view.show()
        assert "the model left" in said(client)


async def test_a_call_tells_arguments_result_and_failure() -> None:
    call = CallPart(id="1", name="find", server="pantry", arguments='{"a":[1]}')
    long = CallPart(id="2", name="read", arguments="{not whole")
    answer = Answer(parts=[call, long])
    with blank_page() as client:
        view = AnswerView(answer, lambda: None)
        await view.show(ended=False)
        assert [fold.text for fold in of(client, ui.expansion)] == ["find · pantry", "read"]
        assert '{\n  "a": [\n    1\n  ]\n}' in said(client)
        assert "{not whole" in said(client)
        assert "Running …" in said(client) and "Not run" in said(client)
        call.output, call.error = "no such food", "tool_error"
        long.output = "x" * 20_005
        await view.show()
        assert "Failed: tool_error" in said(client) and "no such food" in said(client)
        assert "Result" in said(client)
        assert "x" * 20_000 + "\n… 5 more characters" in said(client)
