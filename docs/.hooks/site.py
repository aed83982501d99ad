"""What pages get when the site is built: addresses of files outside docs/, and what the sources themselves say.

In the repository a link like `../examples/01_generate.py` leads to the file; on the site it leads to the repository.
A line `<!-- help: serve -->` becomes what `candle-vllm serve --help` prints, and `<!-- families -->` the architectures
that have a row in rust/model.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

from candle_vllm.cli import commands

_LINK = re.compile(r"\]\((\.\./[^)\s#]+)((?:#[^)\s]*)?)\)")
_FAMILIES = "<!-- families -->"
_ARCHITECTURE = re.compile(r'^    architecture: "(\w+)"', re.M)
_HELP = re.compile(r"^<!-- help: ([a-z-]+) -->$", re.M)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """A page's text as it is rendered. Raises PluginError for a link to a file that is not there."""
    docs = Path(config.docs_dir)
    here = (docs / page.file.src_uri).parent

    def address(found: re.Match[str]) -> str:
        path = Path(os.path.normpath(here / found[1]))
        if path.is_relative_to(docs):
            return found[0]
        if not path.exists():
            raise PluginError(f"{page.file.src_uri}: there is no {found[1]}")
        kind = "tree" if path.is_dir() else "blob"
        return f"]({config.repo_url.rstrip('/')}/{kind}/main/{path.relative_to(docs.parent).as_posix()}{found[2]})"

    markdown = _HELP.sub(_help, _LINK.sub(address, markdown))
    return markdown.replace(_FAMILIES, _families(docs.parent)) if _FAMILIES in markdown else markdown


def _help(found: re.Match[str]) -> str:
    # A fixed width, whatever terminal the site is built in.
    os.environ["COLUMNS"] = "110"
    return f"```text\n{commands.parser_of(found[1]).format_help()}```"


def _families(root: Path) -> str:
    rows = sorted((root / "rust/model/src/family/rows").glob("*.rs"))
    names = {name for row in rows for name in _ARCHITECTURE.findall(row.read_text(encoding="utf-8"))}
    return ", ".join(f"`{name}`" for name in sorted(names, key=str.lower))
