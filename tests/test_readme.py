"""What a reader copies from the README, as far as it can be tried without a fresh environment (.ci/readme has one)."""

import re
import shlex
from pathlib import Path

import pytest

from candle_vllm.cli import flags

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M), ids=range(4))
def test_blocks_of_python_are_python(block: str) -> None:
    compile(block, "README.md", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert links or page != PAGES[0]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_commands_are_commands() -> None:
    named = re.findall(r"candle-vllm ([a-z]+ [^`&\n]*)", README)
    words = [shlex.split(command) for command in named]
    assert {"serve", "run", "pull"} <= {word[0] for word in words}
    for subcommand, *rest in words:
        assert subcommand in flags.SUBCOMMANDS
        if subcommand == "serve":
            flags.serve_parser(explicit=True).parse(rest)
        elif subcommand == "run":
            flags.chat_parser("run").parse(rest)
