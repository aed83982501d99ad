"""The table of reasoning styles. A new one is a row here; one that differs by more than marks has a file of its own."""

from __future__ import annotations

import difflib

from candle_vllm.errors import ConfigError
from candle_vllm.pieces import Parse, Reader

from .events import Outlet
from .harmony import Harmony
from .style import Style, Tags

__all__ = ["STYLES", "detect", "find"]


class Identity(Style):
    """No thinking is marked: all is text."""

    names = ("identity", "none")

    def read(self, reader: Reader, out: Outlet, begun: bool) -> Parse[None]:
        """All text."""
        yield from reader.rest_to(out.put)


# In the order in which templates are tried: marks that one family alone has come first.
STYLES: tuple[Style, ...] = (
    Harmony(),
    Tags(
        ("seed_oss",),
        ("<seed:think>",),
        ("</seed:think>",),
        signs=(("<seed:think>",),),
        prompted=("<seed:think><seed:cot_budget_reflect>",),
    ),
    Tags(
        ("gemma4",),
        ("<|channel>thought\n", "<|channel>"),
        ("<channel|>",),
        signs=(("<|channel>",),),
        anywhere=True,
        prompted=("<|channel>thought",),
    ),
    Tags(("mistral",), ("[THINK]",), ("[/THINK]",), signs=(("[THINK]",),), anywhere=True),
    Tags(
        ("cohere", "cohere_command3", "cohere_command4"),
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        signs=(("<|START_THINKING|>",),),
        frames=(("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>")),
    ),
    Tags(("apertus",), ("<|inner_prefix|>",), ("<|inner_suffix|>",), signs=(("<|inner_prefix|>",),), anywhere=True),
    Tags(
        ("granite",),
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
        signs=(("Here is my thought process:",), ("thought process", "Granite")),
    ),
    Tags(
        ("hunyuan_a13b",),
        signs=(("<think>", "<answer>"),),
        frames=(("<answer>", "</answer>"),),
    ),
    Tags(
        ("ernie45",),
        signs=(("<think>", "<response>"),),
        frames=(("<response>", "</response>"),),
    ),
    Tags(
        ("kimi_k2",),
        signs=(("<think>", "<|tool_calls_section_begin|>"), ("</think>", "<|im_middle|>")),
        stops=("<|tool_calls_section_begin|>",),
    ),
    # Families that open with the mark themselves or whose template does; the prompt tells which.
    Tags(
        ("qwen3", "deepseek_v3", "glm45", "glm47", "granite4", "holo2", "nemotron_v3", "smollm3", "exaone4", "think"),
        signs=(("<think>",), ("</think>",)),
    ),
    # The same marks, for replies whose prompt is unknown: these models' templates open the thinking.
    Tags(("deepseek_r1", "minimax_m2", "step3", "olmo3", "qwen3_thinking"), begun=True),
    Identity(),
)

_BY_NAME = {name: style for style in STYLES for name in style.names}


def find(name: str) -> Style:
    """The style of this name, whatever its case and dashes. Raises :class:`ConfigError` for a name that none has."""
    style = _BY_NAME.get(name.lower().replace("-", "_"))
    if style is not None:
        return style
    near = difflib.get_close_matches(name, _BY_NAME, 1, 0.4)
    hint = f" The nearest is {near[0]!r}." if near else ""
    raise ConfigError(f"unknown reasoning style {name!r}.{hint} Known are: {', '.join(sorted(_BY_NAME))}")


def detect(template: str) -> Style | None:
    """The style that a chat template was written for; None when its text shows none."""
    return next((style for style in STYLES if style.recognises(template)), None)
