"""Markdown of hostile writers: nothing becomes active, nothing takes long, and growing gives what the whole gives."""

from __future__ import annotations

import re
import time

import pytest

from candle_vllm.ui.markdown import Block, Growing, safe

TAGS = ("p", "a", "pre", "code", "span", "table", "thead", "tbody", "tr", "th", "td")
SAMPLE = """# Title

A *word*, a `code` and [a link](https://example.org/?a=1&b=2).

- one
- two

  two more

```python
def f() -> str:
    return "<b>"
```

| a | b |
|---|--:|
| 1 | 2 |

Setext
======
last ~~words~~
"""


def whole(text: str) -> list[Block]:
    return list(Growing().grow(text, last=True))


def test_markdown_is_shown() -> None:
    page = safe(SAMPLE)
    for part in ("<h1>Title</h1>", "<em>word</em>", "<code>code</code>", "<li>", "<th>a</th>", "<s>words</s>"):
        assert part in page
    assert '<a href="https://example.org/?a=1&amp;b=2" target="_blank" rel="noopener noreferrer nofollow">' in page
    assert '<span class="k">def</span>' in page and "&lt;b&gt;" in page
    [code] = [block for block in whole(SAMPLE) if block.code is not None]
    assert code.language == "python" and code.code == 'def f() -> str:\n    return "<b>"\n'


@pytest.mark.parametrize("size", [1, 3, 50])
def test_growing_gives_what_the_whole_gives(size: int) -> None:
    growing = Growing()
    for at in range(0, len(SAMPLE), size):
        growing.grow(SAMPLE[at : at + size])
    assert growing.grow("", last=True) == whole(SAMPLE)


def test_settled_blocks_are_not_made_again() -> None:
    growing = Growing()
    before = growing.grow("one\n\ntwo\n\nthree")
    after = growing.grow(" more\n\nfour")
    assert [one is other for one, other in zip(before, after, strict=False)] == [True, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "<div onclick='x'>\n\ntext\n\n</div>",
        "<!-- --><svg/onload=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](java\tscript:alert(1))",
        "[x](data:text/html,<script>1</script>)",
        "[x](vbscript:x) [y](file:///etc/passwd) [z](//stranger.example) [w](/v1/models)",
        "<javascript:alert(1)>",
        "![x](https://stranger.example/pixel.png)",
        "![x](javascript:alert(1) 'title')",
        "[x]: javascript:alert(1)\n\n[x]",
        "```html\n</code></pre><script>alert(1)</script>\n```",
        "```<script>\nx\n```",
        '```python" onmouseover="alert(1)\nx\n```',
        "`</code><script>alert(1)</script>`",
        "| <script> |\n|---|\n| <img src=x> |",
        "\0<script>",
        "[a](https://ok.example \"' onmouseover='alert(1)\")",
    ],
)
def test_nothing_becomes_active(text: str) -> None:
    for page in (safe(text), "".join(block.html for block in Growing().grow(text))):
        tags = set(re.findall(r"<\s*([a-z0-9!/]+)", page.lower()))
        assert tags <= {*TAGS, *(f"/{tag}" for tag in TAGS)}
        links = re.findall(r'<a href="([^"]*)"', page)
        assert all(link.startswith(("https://", "http://", "mailto:")) for link in links)
        for attributes in re.findall(r"<[a-z]+([^>]*)>", page):
            assert set(re.findall(r'([a-z-]+)="', attributes)) <= {"href", "target", "rel", "title", "class", "style"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        ("[" * 15_000 + "\n\n") * 30,
        "*a_ " * 50_000,
        "`" * 100_000,
        ">" * 100_000,
        "- " * 50_000,
        "![a](" * 20_000,
        "<" * 100_000,
        "|" + "a|" * 700 + "\n|" + "-|" * 700 + "\n" + "a\n" * 6_000,
        "a\n\n" * 60_000,
        "**a " * 50_000,
        "x" * 1_000_000,
        "```c\n" + "/*" * 100_000,
    ],
    ids=range(13),
)
def test_nothing_takes_long_or_gets_lost(text: str) -> None:
    began = time.perf_counter()
    blocks = whole(text)
    assert time.perf_counter() - began < 8
    assert len(blocks) < 1_500
    shown = "".join(re.sub(r"<[^>]*>", "", block.html) for block in blocks)
    assert shown.count("a") >= text.count("a") - text.count("![a]")
    assert shown.count("x") >= text.count("x")


def test_a_long_line_is_not_sent_again_as_it_grows() -> None:
    growing = Growing()
    made = 0
    known: list[Block] = []
    for _ in range(1_000):
        blocks = growing.grow("y" * 1_000)
        made += sum(len(block.html) for at, block in enumerate(blocks) if at >= len(known) or known[at] is not block)
        known = list(blocks)
    assert "".join(block.html for block in known) == "y" * 1_000_000
    assert made < 20_000_000


def test_markdown_begins_again_behind_a_part_that_was_too_long() -> None:
    listed = "\n".join(f"- item {number} of a very long list" for number in range(900))
    code = "```py\n" + "value = 1\n\n" * 3_000 + "```\n"
    for long in (listed, code):
        blocks = whole(f"{long}\n\nafter *it*")
        assert "<em>it</em>" in blocks[-1].html
        assert any(block.plain for block in blocks)
        assert all("<em>" not in block.html for block in blocks[:-1])
