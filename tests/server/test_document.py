"""The OpenAPI document: every route, every status, every reference. `.ci/contract` holds the server to it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from candle_vllm.server import create_app
from fake_engine import FakeEngine


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(FakeEngine()).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, one) for path, several in document["paths"].items() for method, one in several.items()]


def test_every_route_is_in_it(document: dict[str, Any]) -> None:
    paths = {path for path, _, _ in operations(document)}
    assert {
        *("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/models", "/v1/models/{name}"),
        *("/v1/models/select", "/v1/models/status", "/v1/usage"),
        *("/health", "/ready", "/health/decode", "/metrics"),
    } <= paths


def test_every_operation_says_how_it_is_refused(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        statuses = set(operation["responses"])
        assert {"400", "401", "421", "429", "431", "500", "503"} <= statuses, path
        assert ({"404", "408", "413", "415"} <= statuses) == (method == "post"), path
        assert "422" not in statuses
        assert any(status.startswith("2") for status in statuses)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in schemas


def test_errors_are_documented_as_each_api_tells_them(document: dict[str, Any]) -> None:
    def told(path: str) -> dict[str, Any]:
        schema: dict[str, Any] = document["paths"][path]["post"]["responses"]["400"]["content"]["application/json"][
            "schema"
        ]
        return schema

    assert told("/v1/chat/completions")["$ref"].endswith("ErrorEnvelope")
    assert set(told("/v1/messages")["required"]) == {"type", "error"}
    assert told("/api/chat")["properties"]["error"] == {"type": "string"}


def test_streams_are_documented_by_their_items(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    data = content["text/event-stream"]["itemSchema"]["properties"]["data"]
    assert data["contentSchema"]["$ref"].endswith("ChatCompletionChunk")
    lines = document["paths"]["/api/chat"]["post"]["responses"]["200"]["content"]["application/x-ndjson"]
    assert "$ref" in lines["itemSchema"]
