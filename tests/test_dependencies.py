"""What is imported is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


FOR_TESTS = ("dev", "docs", "interop")
"""Extras of the tests and documents: the package itself does not import them."""

FOR_OTHERS = {"httptools": "uvicorn.protocols.http.httptools_impl"}
"""What is declared because a module that we import needs it, which its own distribution asks for only in an extra."""


def named(requirements: list[str]) -> set[str]:
    """Names of distributions, as they are compared."""
    return {
        re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-") for requirement in requirements
    }


def imported(folder: Path) -> dict[str, set[str]]:
    """Top-level modules that the sources under `folder` import, with the files that do."""
    found: dict[str, set[str]] = {}
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    return found


def distributions(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """Distributions that these modules come from. A name may have several, as namespaces do."""
    known = packages_distributions()
    found = {}
    for module in modules:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in ("candle_vllm", "__future__"):
            continue
        owners = {name.lower().replace("_", "-") for name in known.get(top, [top])}
        found[module] = owners
    return found


def test_what_is_imported_is_declared() -> None:
    declared = named(PROJECT["dependencies"]) | named(
        [
            one
            for extra, several in PROJECT["optional-dependencies"].items()
            if extra not in FOR_TESTS
            for one in several
        ]
    )
    missing = {
        module: owners for module, owners in distributions(imported(ROOT / "python")).items() if not owners & declared
    }
    assert not missing


def test_what_is_declared_is_imported() -> None:
    modules = imported(ROOT / "python")
    used = set().union(*distributions(modules).values())
    used |= {name for name, module in FOR_OTHERS.items() if module in modules}
    assert named(PROJECT["dependencies"]) - used == set()
    for extra, several in PROJECT["optional-dependencies"].items():
        if extra not in FOR_TESTS:
            assert named(several) - used == set(), extra


def test_uvicorn_s_extras_are_named() -> None:
    assert not [one for one in PROJECT["dependencies"] if one.startswith("uvicorn[")]
    assert {"httptools", "uvloop"} <= named(PROJECT["dependencies"])
