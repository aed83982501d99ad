"""Text on a page grows: what stands is left alone, what is hostile stays text."""

from __future__ import annotations

from nicegui import ui

from candle_vllm.ui.texts import GrowingText

from .elements import blank_page, of, said


async def test_text_grows_and_only_its_last_block_changes() -> None:
    with blank_page() as client:
        text = GrowingText()
        await text.show("First.\n\nHello **wor", False)
        first, second = of(client, ui.html)
        assert (first.content.strip(), "wor" in second.content) == ("<p>First.</p>", True)
        await text.show("First.\n\nHello **world**", True)
        assert of(client, ui.html) == [first, second]
        assert second.content.strip() == "<p>Hello <strong>world</strong></p>"


async def test_code_has_its_language_and_a_button_and_replaces_what_was_no_code_yet() -> None:
    with blank_page() as client:
        text = GrowingText()
        await text.show("``", False)
        assert not of(client, ui.button)
        await text.show("```py\nx = 1\n```", True)
        assert said(client) == ["py"]
        assert len(of(client, ui.button)) == len(of(client, ui.html)) == 1


async def test_markup_of_the_model_is_text() -> None:
    with blank_page() as client:
        text = GrowingText()
        await text.show('<script>alert(1)</script> <img src=x onerror="alert(1)">\n\n[a](javascript:alert(1))', True)
        content = "".join(one.content for one in of(client, ui.html))
        assert "<script" not in content
        assert "<img" not in content
        assert 'href="javascript:' not in content
        assert "alert(1)" in content


async def test_a_text_taken_off_the_page_takes_no_more() -> None:
    with blank_page() as client:
        with ui.element("div") as box:
            text = GrowingText()
        box.delete()
        await text.show("late", True)
        assert not of(client, ui.html)
