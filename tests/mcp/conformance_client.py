"""The client that the MCP conformance suite drives: it does with `McpClient` what the scenario asks for.

usage: python conformance_client.py URL, the scenario and its context in the environment. See .ci/mcp-conformance.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.oauth2 import TokenStorage
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from pydantic import AnyUrl

from candle_vllm.mcp import McpClient, McpServer, McpTool, Timeouts

SAMPLES = {"string": "x", "number": 1, "integer": 1, "boolean": True, "array": [], "object": {}, "null": None}
BACK = "http://localhost:3999/callback"
ABOUT = "https://conformance-test.local/client-metadata.json"


class Memory(TokenStorage):
    """Keeps what OAuth gives; `context` may bring a client that is registered already."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None
        if "client_id" in context:
            self.client = OAuthClientInformationFull(
                client_id=context["client_id"],
                client_secret=context.get("client_secret"),
                redirect_uris=[AnyUrl(BACK)],
                token_endpoint_auth_method="client_secret_basic" if "client_secret" in context else "none",
            )

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Consent:
    """A user who agrees at once: follows the authorization address and takes the code from where it leads."""

    def __init__(self) -> None:
        self.answer: dict[str, str] = {}

    async def visit(self, url: str) -> None:
        async with httpx2.AsyncClient(follow_redirects=False) as browser:
            response = await browser.get(url)
        query = parse_qs(urlsplit(response.headers["location"]).query)
        self.answer = {name: values[0] for name, values in query.items()}

    async def back(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(
            code=self.answer["code"], state=self.answer.get("state"), iss=self.answer.get("iss")
        )


def oauth(url: str, context: Mapping[str, Any]) -> httpx2.Auth:
    consent = Consent()
    about = OAuthClientMetadata(
        client_name="conformance",
        redirect_uris=[AnyUrl(BACK)],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
    )
    return OAuthClientProvider(url, about, Memory(context), consent.visit, consent.back, client_metadata_url=ABOUT)


def arguments(tool: McpTool) -> dict[str, Any]:
    """Arguments that the schema of a tool asks for."""
    properties = tool.parameters.get("properties", {})
    return {
        name: properties.get(name, {}).get("default", SAMPLES.get(properties.get(name, {}).get("type", "string"), "x"))
        for name in tool.parameters.get("required", ())
    }


async def answer(_question: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = schema.get("properties", {})
    return {name: SAMPLES[each["type"]] for name, each in asked.items() if "default" not in each}


async def main(url: str) -> None:
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    server = McpServer(name="conformance", url=url, transport="http", timeouts=Timeouts(connect=60, call=60))
    auth = oauth(url, context) if scenario.startswith("auth/") else None
    async with McpClient(server, elicit=answer, http_auth=auth) as client:
        tools = await client.list_tools()
        if "toolCalls" in context:
            calls = [(call["name"], call["arguments"]) for call in context["toolCalls"]]
        else:
            calls = [(tool.name, arguments(tool)) for tool in tools]
        if scenario == "json-schema-2020-12-preservation":
            focal = next(tool for tool in tools if "$defs" in tool.schema)
            echo = next(tool for tool in tools if tool is not focal)
            calls = [(echo.name, {"schema": focal.schema})]
        results = await asyncio.gather(*(client.call_tool(name, given) for name, given in calls))
    for (name, _), result in zip(calls, results, strict=True):
        print(name, result.outcome, result.text[:200])
    sys.exit(any(result.outcome in ("connection", "timeout", "invalid_result") for result in results))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
