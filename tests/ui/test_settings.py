"""Which request follows from the settings of a page."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from candle_vllm.openai import ChatCompletionRequest
from candle_vllm.ui.settings import FIELDS, Settings


def test_what_is_not_set_is_not_sent() -> None:
    assert Settings().request((), False) == {}
    assert Settings(model="m", temperature=0.0, top_k=5).request((), False) == {
        "model": "m",
        "temperature": 0.0,
        "top_k": 5,
    }


def test_every_number_of_the_panel_is_a_field_of_a_request() -> None:
    for field in FIELDS:
        for value in (field.least, min(field.most, 1e6)):
            number = int(value) if field.whole else value
            sent = Settings.model_validate({field.name: number}).request((), False)
            assert sent == {field.name: number}
            ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "?"}], "model": "", **sent})
        settings = Settings()
        with pytest.raises(ValidationError):
            setattr(settings, field.name, field.least - 1)


@pytest.mark.parametrize(
    ("tools", "off", "mcp"),
    [
        (True, [], {}),
        (True, ["b"], {"allowed_tools": ["a"]}),
        (True, ["gone"], {}),
        (True, ["a", "b"], {"servers": []}),
        (False, [], {"servers": []}),
    ],
)
def test_tools_are_switched(tools: bool, off: list[str], mcp: dict[str, object]) -> None:
    sent = Settings(tools=tools, tools_off=off).request(("a", "b"), True)
    assert sent == {"mcp": mcp}
    ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "?"}], "model": "", **sent})


def test_servers_that_have_not_told_of_their_tools_yet() -> None:
    assert Settings(tools_off=["a"]).request((), True) == {"mcp": {}}
