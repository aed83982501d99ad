"""What the site's hooks make of pages."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import markdown
import pytest
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parent.parent


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hook_{name}", ROOT / "docs/.hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def html(text: str) -> str:
    config = SimpleNamespace(markdown_extensions=["tables", "pymdownx.superfences"])
    hook("commonmark").on_config(config)
    made: str = markdown.markdown(text, extensions=config.markdown_extensions)
    return made


def page(text: str, name: str = "reference/one.md") -> str:
    config = SimpleNamespace(docs_dir=str(ROOT / "docs"), repo_url="https://example.org/it/")
    where = SimpleNamespace(file=SimpleNamespace(src_uri=name))
    made: str = hook("site").on_page_markdown(text, page=where, config=config, files=None)
    return made


@pytest.mark.parametrize("start", ["Text:\n", "Text:\n\n", "# Heading\n"])
def test_a_table_may_follow_anything(start: str) -> None:
    made = html(f"{start}| a | b |\n|---|---|\n| 1 | 2 |\nafter")
    assert "<td>2</td>" in made and "<p>after</p>" in made


def test_a_list_may_follow_text_and_hold_another() -> None:
    made = html("Text:\n- one\n  goes on\n  - inner\n    goes on\n- two\n\nafter")
    assert made.count("<ul>") == 2 and made.count("<li>") == 3
    assert "<p>Text:</p>" in made and made.endswith("<p>after</p>")
    assert html("Text:\n1. one\n2. two").count("<li>") == 2


@pytest.mark.parametrize("text", ["5 - 3 is 2", "two\n-1 is less", "a | b"])
def test_text_stays_text(text: str) -> None:
    assert html(text) == f"<p>{text}</p>"


def test_code_stays_as_it_is() -> None:
    made = html("```text\nflags\n- a\n  - b\n| c |\n```")
    assert "<li>" not in made and "\n- a\n  - b\n| c |\n" in made


def test_files_outside_lead_to_the_repository() -> None:
    assert page("[x](../../examples/01_generate.py)") == "[x](https://example.org/it/blob/main/examples/01_generate.py)"
    assert page("[x](../examples#there)", "one.md") == "[x](https://example.org/it/tree/main/examples#there)"
    assert page("[x](../mcp.md#there)") == "[x](../mcp.md#there)"
    with pytest.raises(PluginError, match="missing.py"):
        page("[x](../../examples/missing.py)")


def test_what_the_sources_say_is_filled_in() -> None:
    assert "--prefill-chunk-size" in page("<!-- help: serve -->")
    assert "`LlamaForCausalLM`" in page("<!-- families -->")
