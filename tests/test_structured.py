import dataclasses
from typing import Any

import pytest

from candle_vllm import ConfigError, GenerationParams, StructuredOutput, Trigger


def test_one_form_or_triggers() -> None:
    word = StructuredOutput(regex="[a-z]+")
    trigger = Trigger(begin="<w>", form=word, end="</w>")
    assert word.given() == ["regex"] and word.triggers == ()
    assert StructuredOutput(triggers=[trigger], least=1, most=2).triggers == (trigger,)
    assert StructuredOutput(json_schema={"type": "null"}).json_schema == '{"type": "null"}'
    assert StructuredOutput(json_schema=False).json_schema == "false"
    assert StructuredOutput(choice=["a", "b"]).choice == ("a", "b")
    for bad in (
        {},
        {"json_object": True, "regex": "a"},
        {"json_object": False},
        {"regex": "a", "triggers": [trigger]},
    ):
        with pytest.raises(ConfigError, match="structured_output must be one of") as caught:
            StructuredOutput(**bad)
        assert caught.value.field == "structured_output"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("json_object", 1, "True or False"),
        ("whitespace", "none", "one of single, compact, any"),
        ("after", "", "not empty"),
        ("after", "x" * 257, "at most 256 bytes"),
        ("triggers", ["x"], "a list of Trigger"),
        ("least", 1, "left out without triggers"),
        ("least", -1, "at least 0"),
        ("most", 0, "at least 1"),
        ("most", 3, "left out without triggers"),
    ],
)
def test_a_bad_value_names_field_and_range(field: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        StructuredOutput(**{"regex": "a", field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("begin", "", "not empty"),
        ("end", 3, "not empty"),
        ("form", "a+", "a StructuredOutput"),
        ("form", StructuredOutput(regex="a", after="x"), "a form alone"),
    ],
)
def test_a_bad_trigger_names_field_and_range(field: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Trigger(**{"begin": "<", "form": StructuredOutput(regex="a"), field: value})
    assert caught.value.field == field


def test_params_carry_one_form() -> None:
    assert GenerationParams().form is None
    params = GenerationParams(json_schema={"type": "integer"}, seed=1)
    assert params.form == StructuredOutput(json_schema='{"type": "integer"}')
    assert dataclasses.replace(params, seed=2).form == params.form
    whole = StructuredOutput(regex="a", after="</think>")
    assert GenerationParams(structured_output=whole).form is whole
    with pytest.raises(ConfigError, match="left unset beside regex"):
        GenerationParams(regex="a", choice=["b"])
    with pytest.raises(ConfigError, match="min_tokens must be 0 beside structured_output"):
        GenerationParams(structured_output=whole, min_tokens=1)
