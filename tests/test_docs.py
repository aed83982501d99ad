"""Every code block of the documents works: Python runs, a page being one program, shell commands too; data is read."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml
from sybil import Document
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from candle_vllm.cli import commands, flags
from candle_vllm.cli.settings import UsageError, refuse_flags
from candle_vllm.mcp import parse_config
from candle_vllm.models import read_catalog
from candle_vllm.openai import ChatCompletionRequest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ADDRESS = "http://127.0.0.1:2000"
"""Of the server in the documents; here another stands for it."""
ELSEWHERE = {
    "github.com",
    "huggingface.co",
    "docs.pypi.org",
    "keepachangelog.com",
    "modelcontextprotocol.io",
    "semver.org",
}
"""Hosts that the documents may send readers to."""
EARLIER = set(
    re.findall(
        r"--[a-z0-9-]+",
        """--hf-token --hf-token-path --h --p --verbose --max-num-seqs --block-size --m --w --f --dtype --isq
        --cpu --mem --kv-fraction --mamba-fraction --kvcache-mem-cpu --record-conversation --d
        --holding-time --multithread --log --temperature --top-p --min-p --top-k --frequency-penalty
        --presence-penalty --prefill-chunk-size --kvcache-dtype --fp8-kvcache --disable-prefix-cache
        --prefix-cache-max-tokens --disable-cuda-graph --ui-server --mcp-command --mcp-args
        --mcp-config --queue-size --request-timeout --enforce-parser --yarn-scaling-factor
        --num-nodes --node-rank --master-addr --master-port""",
    )
)
"""Flags of the earlier binary."""


class Block(NamedTuple):
    """A fenced block; `line` is that of its first line, from 0."""

    page: Path
    line: int
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    document = Document(page.read_text(encoding="utf-8"), str(page))
    return [
        Block(
            page,
            document.text.count("\n", 0, region.start) + 1,
            region.lexemes["language"],
            str(region.lexemes["source"]),
        )
        for region in FencedCodeBlockLexer(r"[a-z]*")(document)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> list[Any]:
    """Parameters of a test: the blocks in these languages."""
    return [
        pytest.param(block, id=f"{block.page.stem}-{block.line + 1}") for block in BLOCKS if block.language in languages
    ]


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[str]:
    """The address of `candle-vllm serve`, as the documents start it."""
    command = [sys.executable, "-m", "candle_vllm", "serve", "--h", "127.0.0.1", "--p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stderr is not None
            yield next(found[1] for line in process.stderr if (found := re.search(r"serving +(http://[^/\s]+)", line)))
        finally:
            process.terminate()
            process.communicate()


def ran(command: list[str], cwd: Path, **variables: str) -> str:
    """What a command prints, which ends well and within two minutes."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks_of(page))], ids=lambda page: page.stem
)
def test_python_runs(page: Path, server: str, tmp_path: Path) -> None:
    # Each block at its own lines, so that a traceback names those of the page.
    lines = [""] * len(page.read_text(encoding="utf-8").splitlines())
    for block in blocks_of(page):
        if block.language == "python":
            text = block.text.splitlines()
            lines[block.line : block.line + len(text)] = text
    program = tmp_path / f"{page.stem}.py"
    program.write_text("\n".join(lines).replace(ADDRESS, server), encoding="utf-8")
    assert ran([sys.executable, str(program)], tmp_path, PYTHONWARNINGS="error")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the commands that documents may show; there are no others in their shell."""
    folder = tmp_path_factory.mktemp("bin")
    stand_in = shlex.join([sys.executable, str(ROOT / "tests/docs_shell.py")])
    for name in ("candle-vllm", "pip", "python", "python3"):
        (folder / name).write_text(f'#!/bin/sh\nexec {stand_in} {name} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    for name in ("cat", "curl", "head", "sh"):
        found = next(p for path in os.get_exec_path() if (p := Path(path) / name).exists())
        (folder / name).symlink_to(found)
    return folder


@pytest.mark.parametrize("block", of("sh"))
def test_shell_commands_run(block: Block, server: str, shell: Path, tmp_path: Path) -> None:
    # Activating an environment would bring the real commands back.
    text = block.text.replace(ADDRESS, server).replace(". .venv/bin/activate", ":")
    text = text.replace("curl ", "curl --fail-with-body --silent --show-error --max-time 100 ")
    ran(["/bin/bash", "-euo", "pipefail", "-c", text], tmp_path, PATH=str(shell))


@pytest.mark.parametrize("block", of("json"))
def test_json_is_what_it_shows(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_TOKEN", "secret")
    value = json.loads(block.text)
    # A line of a file of requests holds one.
    value = value.get("body", value)
    if "mcpServers" in value:
        assert parse_config(value)
    elif "messages" in value:
        ChatCompletionRequest.model_validate(value)


@pytest.mark.parametrize("block", of("yaml", "toml"))
def test_settings_are_what_they_show(block: Block, tmp_path: Path) -> None:
    value = tomllib.loads(block.text) if block.language == "toml" else yaml.safe_load(block.text)
    assert value
    if "models" in value:
        file = tmp_path / "models.yaml"
        file.write_text(block.text, encoding="utf-8")
        assert read_catalog(file)


def test_every_block_is_tried() -> None:
    # `text` shows what something prints; everything else is in a language that a test above takes.
    assert {block.language for block in BLOCKS} <= {"python", "sh", "json", "yaml", "toml", "text"}
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.M)
        assert len(fences) == 2 * len(blocks_of(page)), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_known_hosts(page: Path) -> None:
    # Links within the documents are checked where the site is built (.ci/docs).
    links = re.findall(r"\]\((https?://[^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert {urlsplit(link).hostname for link in links} <= ELSEWHERE


def test_every_subcommand_is_documented() -> None:
    shown = re.findall(r"<!-- help: ([a-z-]+) -->", (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(flags.SUBCOMMANDS)
    assert all(commands.parser_of(name).format_help() for name in shown)


def test_every_flag_of_the_earlier_binary_is_told_of() -> None:
    rows = re.findall(r"^\| (`--[^|]*) \| ([^|]*) \|$", (ROOT / "docs/earlier.md").read_text(encoding="utf-8"), re.M)
    told = {flag: text for names, text in rows for flag in re.findall(r"--[a-z0-9-]+", names)}
    assert told.keys() == EARLIER
    assert {flag for flag in EARLIER if is_refused(flag)} == {
        flag for flag, text in told.items() if re.match(r"refused|0 only|1 and 0 only", text)
    }


def is_refused(flag: str) -> bool:
    """Whether the command refuses this flag by itself, whatever its value."""
    [action] = [action for action in flags.serve_parser(explicit=False)._actions if flag in action.option_strings]
    value: Any = True if action.nargs == 0 else 7 if action.type in (int, float) else "name"
    try:
        refuse_flags(argparse.Namespace(**{action.dest: value}))
    except UsageError:
        return True
    return False
