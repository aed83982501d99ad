"""Thinking told apart from the answer: each style, whole and under any split."""

import random
from dataclasses import dataclass

import pytest

from candle_vllm import tools
from candle_vllm.errors import ConfigError
from candle_vllm.reasoning import STYLES, Reasoning, SplitReply, Splitter, Text, detect, find, split


@dataclass(frozen=True)
class Case:
    style: str
    text: str
    reasoning: str | None
    content: str
    begun: bool | None = None


CASES = [
    Case("qwen3", "<think>\nHm.\n\nSo.\n</think>\n\nYes.\n", "Hm.\n\nSo.", "Yes.\n"),
    Case("qwen3", "\n<think>Hm.</think>Yes.", "Hm.", "Yes."),
    Case("qwen3", "Hm.\n</think>\n\nYes.", "Hm.", "Yes.", begun=True),
    Case("qwen3", "<think>\nHm.</think>Yes.", "Hm.", "Yes.", begun=True),
    Case("qwen3", "No thinking here.\n", None, "No thinking here.\n"),
    Case("qwen3", "  indented", None, "  indented"),
    Case("qwen3", "The tag <think> opens, </think> closes.", None, "The tag <think> opens, </think> closes."),
    Case("qwen3", "<think>\n\n</think>\n\nYes.", None, "Yes."),
    Case("qwen3", "<think>Cut off in the mid", "Cut off in the mid", ""),
    Case("qwen3", "<think>Cut off in a mark </thi", "Cut off in a mark </thi", ""),
    Case("qwen3", "<thinking about it", None, "<thinking about it"),
    Case("qwen3", "<think>The mark `</think>` ends it.</think>Yes.", "The mark `</think>` ends it.", "Yes."),
    Case("qwen3", '<think>They said "</think>" twice.</think>Yes.', 'They said "</think>" twice.', "Yes."),
    Case("qwen3", '<think>I say "hi"</think>"Hi"', 'I say "hi"', '"Hi"'),
    Case("qwen3", "<think>a `code`</think>`x`", "a `code`", "`x`"),
    Case("qwen3", "<think>a < b </ c</think>d < e", "a < b </ c", "d < e"),
    Case("qwen3", "<think>Hm.</think>\r\n\r\nYes.", "Hm.", "Yes."),
    Case("qwen3", "<think>思考 😀</think>答え", "思考 😀", "答え"),
    Case("qwen3", "<think>Hm.</think>A <think>tag</think> later.", "Hm.", "A <think>tag</think> later."),
    Case("deepseek_r1", "Hm.</think>Yes.", "Hm.", "Yes."),
    Case("deepseek_r1", "Yes.", None, "Yes.", begun=False),
    Case("minimax_m2", "<think>\nHm.\n</think>\n\n<minimax:tool_call>", "Hm.", "<minimax:tool_call>"),
    Case("seed_oss", "<seed:think>Hm. </think></seed:think>Yes.", "Hm. </think>", "Yes."),
    Case("mistral", "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
    Case("mistral", "First.[THINK]Hm.[/THINK]Yes.", "Hm.", "First.Yes."),
    Case("gemma4", "<|channel>thought\nHm.<channel|>Yes.", "Hm.", "Yes."),
    Case("gemma4", "<|channel>thought\n<channel|>Yes.", None, "Yes."),
    Case("granite", "Here is my thought process: Hm.\n\nHere is my response: Yes.", "Hm.", "Yes."),
    Case("granite", "Here's my thought process: Hm. Here's my response:\n\nYes.", "Hm.", "Yes."),
    Case("granite", "Here is my answer.", None, "Here is my answer."),
    Case("hunyuan_a13b", "<think>\nHm.\n</think>\n<answer>\nYes.\n</answer>", "Hm.", "Yes."),
    Case("hunyuan_a13b", "<think>\nHm.\n</think>\nYes.", "Hm.", "Yes."),
    Case("hunyuan_a13b", "<answer>\nYes <b>.\n</answer>", None, "Yes <b>."),
    Case("ernie45", "<think>\nHm.\n</think>\n\n<response>\nYes.\n</response>\n", "Hm.", "Yes.\n"),
    Case(
        "cohere",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>",
        "Hm.",
        "Yes.",
    ),
    Case(
        "cohere",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[]<|END_ACTION|>",
        "Hm.",
        "<|START_ACTION|>[]<|END_ACTION|>",
    ),
    Case("cohere", "<|START_RESPONSE|>Yes.<|END_RESPONSE|>", None, "Yes."),
    Case("kimi_k2", "<think>Hm.<|tool_calls_section_begin|>x", "Hm.", "<|tool_calls_section_begin|>x"),
    Case("apertus", "<|inner_prefix|>Hm.<|inner_suffix|>Yes.", "Hm.", "Yes."),
    Case("identity", "<think>Hm.</think>Yes.", None, "<think>Hm.</think>Yes."),
    Case("identity", "Yes.", None, "Yes.", begun=True),
    Case(
        "openai_gptoss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        "Hm.",
        "Yes.",
    ),
    Case("openai_gptoss", "<|channel|>analysis<|message|>Cut", "Cut", ""),
    Case("openai_gptoss", "<|channel|>commentary<|message|>I will look.<|end|>", None, "I will look."),
    Case("openai_gptoss", "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Hm.", "Yes.", begun=True),
    Case(
        "openai_gptoss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        '<|constrain|>json<|message|>{"a": " x "}<|call|>',
        "Hm.",
        '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": " x "}<|call|>',
    ),
]


def fold(pieces: list[str], case: Case) -> SplitReply:
    splitter = Splitter(case.style, case.begun)
    events = [event for piece in pieces for event in splitter.feed(piece)] + splitter.end()
    assert all(event.text for event in events)
    thinking = "".join(event.text for event in events if isinstance(event, Reasoning))
    return SplitReply(thinking or None, "".join(event.text for event in events if isinstance(event, Text)))


@pytest.mark.parametrize("case", CASES)
def test_whole_and_in_pieces(case: Case) -> None:
    expected = SplitReply(case.reasoning, case.content)
    assert split(case.text, case.style, case.begun) == expected
    assert fold(list(case.text), case) == expected
    rng = random.Random(case.text)
    for _ in range(100):
        points = sorted(rng.randrange(len(case.text) + 1) for _ in range(rng.randrange(1, 12)))
        pieces = [case.text[a:b] for a, b in zip([0, *points], [*points, len(case.text)], strict=True)]
        assert fold(pieces, case) == expected, pieces


def test_each_style_has_a_case() -> None:
    covered = {find(case.style).name for case in CASES}
    assert covered == {style.name for style in STYLES}


def test_text_streams_while_it_is_certain() -> None:
    splitter = Splitter("qwen3")
    assert splitter.feed("<think>\nOne ") == [Reasoning("One")]
    assert splitter.inside
    assert splitter.feed("two </") == [Reasoning(" two")]
    assert splitter.feed("x") == [Reasoning(" </x")]
    assert splitter.feed("</think>\n\nThree") == [Text("Three")]
    assert not splitter.inside
    assert splitter.feed(" four\n") == [Text(" four\n")]
    assert splitter.end() == []


def test_inside_is_known_before_the_first_piece() -> None:
    assert Splitter("qwen3", begun=True).inside
    assert not Splitter("qwen3").inside
    assert not Splitter("identity", begun=True).inside


@pytest.mark.parametrize(
    ("style", "prompt", "begun"),
    [
        ("qwen3", "<|im_start|>assistant\n<think>\n", True),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("qwen3", "<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("seed_oss", "<seed:bos>assistant\n<seed:think><seed:cot_budget_reflect>", True),
        ("gemma4", "<|turn>model\n<|channel>thought\n", True),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>", False),
        ("openai_gptoss", "<|start|>assistant", False),
        ("openai_gptoss", "<|start|>assistant<|channel|>analysis<|message|>", True),
        ("identity", "<think>", False),
    ],
)
def test_a_prompt_may_open_the_thinking(style: str, prompt: str, begun: bool) -> None:
    assert find(style).begun_by(prompt) is begun


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{- '<|im_start|>assistant\\n<think>\\n' }}", "qwen3"),
        ("{% set content = content.split('</think>')[-1] %}", "qwen3"),
        ("<|channel|>analysis<|message|>", "openai_gptoss"),
        ("'<|channel>thought\\n<channel|>'", "gemma4"),
        ("[THINK]{{ content }}[/THINK]", "mistral"),
        ("<seed:think>", "seed_oss"),
        ("<|START_THINKING|>", "cohere"),
        ("'<think>' '</think>' '<answer>'", "hunyuan_a13b"),
        ("<|im_assistant|>assistant<|im_middle|><think></think>", "kimi_k2"),
        ("{{ message.content }}", None),
    ],
)
def test_a_template_shows_its_style(template: str, name: str | None) -> None:
    found = detect(template)
    assert (found.name if found else None) == name


def test_an_unknown_style_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'qwen33'.*nearest is 'qwen3'.*deepseek_r1"):
        Splitter("qwen33")


def test_names_are_unique() -> None:
    names = [name for style in STYLES for name in style.names]
    assert len(names) == len(set(names))


def test_a_call_in_the_thinking_is_none() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    reply = split(f"<think>I could write {call}.</think>Done.", "qwen3")
    assert tools.parse(reply.content, "hermes").tool_calls == []
    reply = split(f"<think>Now.</think>{call}", "qwen3")
    assert [call.name for call in tools.parse(reply.content, "hermes").tool_calls] == ["f"]


def test_harmony_passes_calls_to_the_tools() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Look.<|end|>"
    text += "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"
    reply = split(text, "openai_gptoss")
    parsed = tools.parse(reply.content, "openai")
    assert (reply.reasoning, parsed.content) == ("Hm.", "Look.")
    assert [(call.name, call.arguments) for call in parsed.tool_calls] == [("f", "{}")]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_long_answer_takes_linear_time_in_any_pieces(style: object) -> None:
    splitter = Splitter(style, begun=True)  # type: ignore[arg-type]
    length = sum(len(event.text) for _ in range(20_000) for event in splitter.feed("word <"))
    length += sum(len(event.text) for event in splitter.end())
    assert length == 6 * 20_000
