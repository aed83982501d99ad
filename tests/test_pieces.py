"""The reader that parsers of replies wait on: what it tells, when, and that pieces make no difference."""

import random
import re
import time

from candle_vllm.pieces import Marks, Parse, Reader, drop, marks


def run(step: Parse[object], reader: Reader, pieces: list[str]) -> object:
    """What a step returns, its reader being fed these pieces and then closed."""
    try:
        next(step)
        for piece in pieces:
            reader.feed(piece)
            next(step)
        reader.close()
        next(step)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the step waits although the reply ended")


def upto(pieces: list[str], *texts: str) -> tuple[object, list[str], str]:
    reader = Reader()
    told: list[str] = []
    mark = run(reader.upto(Marks(*texts), told.append), reader, pieces)
    return mark, told, reader.rest()


def test_text_before_a_mark_is_told_at_once_and_the_mark_stays() -> None:
    assert upto(["ab", "c<", "e", "nd>x"], "<end>") == ("<end>", ["ab", "c"], "<end>x")


def test_a_beginning_that_comes_to_nothing_is_told() -> None:
    assert upto(["a<e", "n", "!"], "<end>") == ("", ["a", "<en!"], "")
    assert upto(["a<en"], "<end>") == ("", ["a", "<en"], "")


def test_of_two_marks_at_one_place_the_longer_wins() -> None:
    for pieces in (["<a>b"], ["<a>", "b"], list("<a>b")):
        assert upto(pieces, "<a>", "<a>b")[0] == "<a>b"
    for pieces in (["<a>c"], ["<a>", "c"], ["<a>"]):
        assert upto(pieces, "<a>", "<a>b")[0] == "<a>"


def test_marks_that_overlap_themselves_are_found() -> None:
    assert upto(list("aaab"), "aab") == ("aab", ["a"], "aab")
    assert upto(["ababac"], "abac") == ("abac", ["ab"], "abac")


def test_pieces_make_no_difference() -> None:
    rng = random.Random(7)
    texts = ("ab", "abc", "ba", "cab")
    for _ in range(500):
        text = "".join(rng.choices("abc ", k=rng.randrange(1, 12)))
        points = sorted(rng.randrange(len(text) + 1) for _ in range(3))
        pieces = [text[a:b] for a, b in zip([0, *points], [*points, len(text)], strict=True)]
        mark, told, _ = upto([text], *texts)
        split_mark, split_told, _ = upto(pieces, *texts)
        assert (split_mark, "".join(split_told)) == (mark, "".join(told))


def test_peeking_consumes_nothing() -> None:
    reader = Reader()
    assert run(reader.peek(3), reader, ["a", "b", "cd"]) == "abc"
    assert reader.rest() == "abcd"
    reader = Reader()
    assert run(reader.peek(3), reader, ["a"]) == "a"
    reader = Reader()
    assert run(reader.peek_past_space(1, 2), reader, ["x ", "\n", "yz"]) == "yz"
    assert reader.rest() == "x \nyz"


def test_endless_white_space_is_no_layout() -> None:
    reader = Reader()
    assert run(reader.peek_past_space(0, 1), reader, [" " * 300]) == ""


def test_what_was_kept_comes_back() -> None:
    reader = Reader()
    reader.feed("abcdef")
    reader.keep("<")
    reader.take(3)
    assert reader.kept() == "<abc"
    reader.take(1)
    assert reader.kept() == ""
    reader.keep()
    reader.take(1)
    reader.forget()
    assert reader.kept() == ""


def test_runs_and_space() -> None:
    reader = Reader()
    told: list[str] = []
    run(reader.run(re.compile(r"\w*"), told.append), reader, ["ab", "c-d"])
    assert ("".join(told), reader.rest()) == ("abc", "-d")
    reader = Reader()
    assert run(reader.space(), reader, [" ", "\n", "x"]) == " \n"


def test_a_mark_here_or_none() -> None:
    for pieces, mark in ((["<a>"], "<a>"), (list("<a>"), "<a>"), (["<b"], ""), (["<"], ""), (["x<a>"], "")):
        reader = Reader()
        assert run(reader.at_mark(marks("<a>")), reader, pieces) == mark
        assert reader.rest() == "".join(pieces)[: len(reader.rest())]


def test_a_long_text_takes_linear_time_a_character_at_a_time() -> None:
    def seconds(length: int) -> float:
        reader = Reader()
        step = reader.upto(marks("<end>"), drop)
        next(step)
        start = time.perf_counter()
        for _ in range(length):
            reader.feed("x")
            next(step)
        return time.perf_counter() - start

    seconds(1000)
    assert seconds(80_000) < 40 * max(seconds(10_000), 0.001)
