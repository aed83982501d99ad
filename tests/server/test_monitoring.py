"""The dashboard and the alerts of examples/monitoring: every metric and label they name is one that /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from candle_vllm.generation import Account
from candle_vllm.models import SingleModel
from candle_vllm.openai import ApiError
from candle_vllm.server.metrics import Metrics
from fake_engine import FakeEngine

FOLDER = Path(__file__).parents[2] / "examples" / "monitoring"
METRIC = re.compile(r"\b(?:vllm:|candle_vllm_|process_)\w+")
SELECTOR = re.compile(r"\b((?:vllm:|candle_vllm_)\w+)\{([^}]*)\}")


def everything() -> dict[str, set[str]]:
    """Names of all samples, each with its labels' names, after one of everything has happened."""
    metrics = Metrics(SingleModel(FakeEngine(), ["m"]))
    account = Account(model="m", stream=True, answers=1, max_tokens=5, started=1.0, submitted=2.0, ended=9.0)
    for at in (3.0, 4.0):
        metrics.tokens(account, 1, at)
    account.generated_tokens, account.finish_reasons = 2, ["stop"]
    metrics.ended(account)
    metrics.queue_length("m", 1)
    metrics.loaded("m", 1.0)
    metrics.load_failed("m", 1.0)
    metrics.switched("m", "o", 1.0)
    metrics.cancelled("m", "queued")
    metrics.refused(ApiError("no", code="invalid_api_key"))
    metrics.replied(200)
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def expressions() -> list[str]:
    dashboard: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    alerts: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [variable["query"] for variable in dashboard["templating"]["list"]]
    found += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    return found


@pytest.mark.parametrize("expression", expressions())
def test_what_is_named_is_there(expression: str) -> None:
    known = everything()
    for name in METRIC.findall(expression):
        assert name in known, name
    for name, labels in SELECTOR.findall(expression):
        assert set(re.findall(r"(\w+)\s*=", labels)) <= known[name]
    for names in re.findall(r"by \(([^)]*)\)", expression):
        metric = METRIC.findall(expression)[0]
        assert {one.strip() for one in names.split(",")} - {"instance"} <= known[metric]


def test_what_is_named_in_texts_is_there() -> None:
    alerts: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    for group in alerts["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                assert label == "instance" or f"{label}" in rule["expr"] or label in known_of(rule["expr"]), rule[
                    "alert"
                ]


def known_of(expression: str) -> set[str]:
    known = everything()
    return set().union(*(known[name] for name in METRIC.findall(expression)))


def test_the_dashboard_shows_all_that_vllm_names() -> None:
    shown = " ".join(expressions())
    missing = {name for name in everything() if name.startswith("vllm:") and not name.endswith("_created")} - set(
        METRIC.findall(shown)
    )
    histograms = {name for name in missing if name.endswith(("_sum", "_count", "_bucket"))}
    assert missing - histograms == set()
