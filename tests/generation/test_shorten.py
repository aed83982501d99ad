"""What a conversation that is too long does without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from candle_vllm.generation.shorten import shortened, spans


def said(roles: str) -> list[dict[str, Any]]:
    """Messages by the first letters of their roles, numbered."""
    names = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[role], "content": str(at)} for at, role in enumerate(roles)]


def letters(messages: Sequence[Mapping[str, Any]]) -> str:
    return "".join(message["role"][0] for message in messages)


@pytest.mark.parametrize(
    ("roles", "wanted"),
    [
        ("", []),
        ("s", []),
        ("u", []),
        ("su", []),
        ("sua", []),
        ("suaua", [range(1, 3)]),
        ("suatauau", [range(1, 5), range(5, 7)]),
        ("auau", [range(1), range(1, 3)]),
        # One turn with many calls: all but the last of them may go, each with its results.
        ("suattatat", [range(2, 5), range(5, 7)]),
        ("uauatat", [range(2), range(3, 5)]),
        ("satat", [range(1, 3)]),
        ("sdu", []),
        ("usu", [range(2)]),
    ],
)
def test_what_may_go(roles: str, wanted: list[range]) -> None:
    assert spans(said(roles)) == wanted


def test_no_more_than_it_takes() -> None:
    messages = said("s" + "uatata" * 20 + "uatatu")
    for most in range(1, len(messages) + 3):
        asked = 0

        def fits(rest: Sequence[Mapping[str, Any]], most: int = most) -> bool:
            nonlocal asked
            asked += 1
            return len(rest) <= most

        left = shortened(messages, fits)
        assert asked <= 8
        assert left[0]["role"] == "system" and left[-1] is messages[-1]
        assert len(left) <= most or left == [messages[0], messages[-1]]
        # What is left is the end of what there was, and one span more would not have fitted.
        assert list(left[1:]) == messages[len(messages) - len(left) + 1 :]
        if most < len(messages):
            assert most - len(left) < 6
        assert "st" not in letters(left) and "ut" not in letters(left)
