"""Names of tools under OpenAI's rule."""

import random
import re

import pytest

from candle_vllm.mcp.names import is_plain, named

RULE = re.compile(r"[A-Za-z0-9_-]{1,64}")


def test_plain_names_stay() -> None:
    assert named([("a", "read"), ("b", "write")]) == {"read": ("a", "read"), "write": ("b", "write")}


def test_servers_that_share_a_name_both_get_their_prefix() -> None:
    tools = [("a", "read"), ("b", "read"), ("b", "write")]
    assert set(named(tools)) == {"a__read", "b__read", "write"}
    assert named(tools) == named(tools[::-1])


def test_names_in_use_are_not_given_out() -> None:
    assert set(named([("a", "read")], taken=["read"])) == {"a__read"}
    (name,) = named([("a", "read")], taken=["read", "a__read"])
    assert name.startswith("a__read_")


def test_other_characters_and_lengths() -> None:
    assert set(named([("a", "files/read.text")])) == {"files_read_text"}
    (long,) = named([("a", "x" * 128)])
    assert len(long) == 64
    assert len(named([("a", "x" * 128), ("a", "x" * 127)])) == 2


def test_names_that_become_one_stay_two() -> None:
    tools = [("a", "x.y"), ("a", "x_y"), ("a", "x/y")]
    assert sorted(named(tools).values()) == sorted(tools)


@pytest.mark.parametrize("seed", range(20))
def test_any_tools_get_one_lawful_name_each(seed: int) -> None:
    dice = random.Random(seed)
    letters = "ab_.-/é "
    made = ("".join(dice.choices(letters, k=dice.randint(1, dice.choice([3, 80])))) for _ in range(200))
    tools = list({(dice.choice(["s", "s.t", "s_t", "x" * 64]), name) for name in made})
    names = named(tools, taken=["a", "b"])
    assert sorted(names.values()) == sorted(tools)
    assert all(RULE.fullmatch(name) and is_plain(name) for name in names)
    assert not {"a", "b"} & set(names)
