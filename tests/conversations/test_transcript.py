"""What a model is shown where the context is too small."""

from typing import Any

from candle_vllm.conversations.transcript import Transcript


def result(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "x", "content": text}


CALL: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}


def test_the_oldest_go_first_twice_as_many_each_time() -> None:
    transcript = Transcript([{"role": "user", "content": "u" * 5000}])
    for _ in range(5):
        transcript.add(CALL)
        transcript.add(result("r" * 1000))
    lengths = []
    while transcript.shorten():
        lengths.append([len(message["content"]) < 1000 for message in transcript.shown if message["role"] == "tool"])
    assert lengths[:3] == [
        [True, False, False, False, False],
        [True, True, True, False, False],
        [True, True, True, True, False],
    ]
    # Those of the last turn come last, by half.
    assert all(lengths[3])
    assert not transcript.can_shorten
    assert all(len(message["content"]) == 1000 for message in transcript.messages if message["role"] == "tool")
    assert transcript.shown[0] == transcript.messages[0]


def test_the_longest_of_the_last_turn_is_cut_first() -> None:
    transcript = Transcript([{"role": "user", "content": "u"}, CALL, result("r" * 1000), result("r" * 9000)])
    transcript._turn_began = 1
    assert transcript.shorten()
    shown = [message["content"] for message in transcript.shown[2:]]
    assert [len(text) // 1000 for text in shown] == [1, 4]
    assert "[... 4500 characters" in shown[1]
    while transcript.shorten():
        pass
    assert "[... 8800 characters" in transcript.shown[3]["content"]


def test_instructions_join_the_system_message() -> None:
    user = {"role": "user", "content": "hello"}
    assert Transcript([user], ["Use a.", "Use b."]).shown == [{"role": "system", "content": "Use a.\n\nUse b."}, user]
    system = {"role": "system", "content": "Be kind."}
    transcript = Transcript([system, user], ["Use a."])
    assert transcript.shown == [{"role": "system", "content": "Be kind.\n\nUse a."}, user]
    assert transcript.messages == [system, user]
    transcript = Transcript([user], ["Use a."])
    transcript.add(CALL)
    transcript.add(result("r" * 1000))
    transcript.add(CALL)
    assert transcript.shorten()
    assert "[... 800 characters" in transcript.shown[3]["content"]
