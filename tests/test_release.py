"""What a release rests on: one version, a changelog that people and programs read, a workflow that is one."""

import re
import tomllib
from pathlib import Path

import yaml

import candle_vllm

ROOT = Path(__file__).parent.parent
WORKSPACE = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]


def test_the_version_stands_in_one_place() -> None:
    version = WORKSPACE["package"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[a-z]+\.\d+)?", version)
    for member in WORKSPACE["members"]:
        crate = tomllib.loads((ROOT / member / "Cargo.toml").read_text(encoding="utf-8"))["package"]
        assert crate["version"] == {"workspace": True}, member
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"] and "version" not in project
    assert candle_vllm.__version__ == version


def test_the_changelog_is_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    [first, *released] = re.findall(r"^## (.+)$", text, re.M)
    assert first == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in released)
    groups = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= groups


def test_the_workflow_releases_for_every_system_and_publishes_nothing() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert set(jobs) == {"linux", "macos", "windows"}
    assert any(step.get("run") == ".ci/release" for step in jobs["linux"]["steps"])
    assert not re.search(r"id-token|pypi-publish|twine upload|maturin (publish|upload)", text)
