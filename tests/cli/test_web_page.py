"""What --ui-server asks for, and what it says where the page is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from candle_vllm.cli.flags import serve_parser
from candle_vllm.cli.settings import UsageError
from candle_vllm.cli.web_page import both, web_of


def test_without_the_flag_nothing_changes() -> None:
    web = web_of(serve_parser(explicit=False).parse_args([]))
    app = object()
    assert web.around(app) is app  # type: ignore[arg-type]
    assert (web.progress, web.socket_bytes) == (None, None)


def test_a_page_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("candle_vllm.ui")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(UsageError, match=r"pip install 'candle-vllm\[ui\]' first"):
        web_of(serve_parser(explicit=False).parse_args(["--ui-server"]))


def test_a_server_without_the_page_does_not_load_its_library() -> None:
    code = "import sys, candle_vllm.cli.serve; sys.exit('nicegui' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_progress_is_told_to_whoever_wants_it() -> None:
    heard: list[tuple[str, int, int]] = []
    one = lambda *told: heard.append(told)  # noqa: E731
    assert both(None, None) is None
    assert both(one, None) is one and both(None, one) is one
    report = both(one, one)
    assert report is not None
    report("weights", 1, 2)
    assert heard == [("weights", 1, 2)] * 2
