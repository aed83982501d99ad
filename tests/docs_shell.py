"""Stands for the commands that documents show: what ends by itself runs, of the rest names and flags are checked.

usage: docs_shell.py COMMAND ARGUMENTS..., called by links that tests/test_docs.py puts first in a shell's PATH.
"""

import re
import sys
import tomllib
from pathlib import Path

from candle_vllm.cli import commands, flags
from candle_vllm.cli.settings import refuse_flags

ROOT = Path(__file__).parent.parent
ENDS = {"run", "chat", "complete", "inspect", "fits", "pull", "list"}
"""Subcommands that may run, with the model that is here."""


def candle_vllm(argv: list[str]) -> int:
    subcommand = argv[0] if argv and argv[0] in flags.SUBCOMMANDS else None
    args = commands.parser_of(subcommand).parse(argv[1:] if subcommand else argv)
    refuse_flags(args)
    given = {getattr(args, "named_model", None), getattr(args, "model", None), getattr(args, "weight_file", None)}
    own = given <= {None, "smollm2"} and getattr(args, "weight_path", None) is None
    if getattr(args, "version", False) or (subcommand in ENDS and own):
        return commands.run(argv)
    return 0


def pip(argv: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert argv[0] == "install", argv
    for extras in re.findall(r"(?:candle-vllm|\.)\[([\w,]+)\]", " ".join(argv)):
        assert set(extras.split(",")) <= project["optional-dependencies"].keys(), extras
    return 0


def python(argv: list[str]) -> int:
    assert argv[:2] == ["-m", "venv"] or (ROOT / argv[0]).is_file(), argv
    return 0


if __name__ == "__main__":
    _, command, *rest = sys.argv
    sys.exit({"candle-vllm": candle_vllm, "pip": pip, "python": python, "python3": python}[command](rest))
