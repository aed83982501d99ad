"""Flags of the boundary: what they mean, and which are refused."""

from __future__ import annotations

import argparse
import gzip
import http.server
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from candle_vllm.cli.address import Address, parse_address
from candle_vllm.cli.guard import KEY_VARIABLE, add_guard, boundary_settings, exposure, operations_of
from candle_vllm.cli.settings import UsageError
from candle_vllm.generation import Account
from candle_vllm.server.boundary import BoundarySettings

HERE = Address("127.0.0.1", 2000)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def settings(*flags: str, address: Address = HERE) -> BoundarySettings:
    parser = argparse.ArgumentParser()
    add_guard(parser)
    return boundary_settings(parser.parse_args(flags), address)


def test_keys_of_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("# ours\nbob sk-bob\n", encoding="utf-8")
    monkeypatch.setenv(KEY_VARIABLE, "carol sk-carol, sk-dave")
    found = settings("--api-key", "alice sk-alice", "--api-key", "sk-x", "--api-key-file", str(tmp_path / "keys"))
    assert {key.secret for key in found.api_keys} == {"sk-alice", "sk-x", "sk-bob", "sk-carol", "sk-dave"}
    assert {"alice", "bob", "carol"} < {key.name for key in found.api_keys}


def test_a_source_without_keys_does_not_leave_the_door_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("# none yet\n", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for flags, said in (
        (("--api-key", ""), "--api-key"),
        (("--api-key-file", str(tmp_path / "empty")), "no API key"),
        (("--api-key-file", str(tmp_path / "missing")), "No such file"),
        (("--api-key-file", str(tmp_path / "binary")), "UTF-8"),
    ):
        with pytest.raises(UsageError, match=said):
            settings(*flags)
    monkeypatch.setenv(KEY_VARIABLE, " ")
    with pytest.raises(UsageError, match=KEY_VARIABLE):
        settings()


@pytest.mark.parametrize(
    ("address", "flags", "hosts"),
    [
        ("127.0.0.1", (), ("localhost", "127.0.0.1", "[::1]", "127.0.0.1")),
        ("::1", (), ("localhost", "127.0.0.1", "[::1]", "[::1]")),
        ("127.0.0.1", ("--allowed-hosts", "Api.example, b.example"), ("api.example", "b.example")),
        ("0.0.0.0", (), ("*",)),
        ("0.0.0.0", ("--allowed-hosts", "api.example"), ("api.example",)),
        ("unix:///run/x.sock", (), ("*",)),
    ],
)
def test_hosts(address: str, flags: tuple[str, ...], hosts: tuple[str, ...]) -> None:
    assert settings(*flags, address=parse_address(address, None)).allowed_hosts[-len(hosts) :] == hosts


def test_limits_and_origins() -> None:
    plain = settings()
    assert plain.limits.body_bytes == 8 * 1024 * 1024
    assert (plain.allowed_origins, plain.log_prompts, plain.limits.caller_rate) == ((), False, None)
    asked = settings(
        *("--max-body-size", "0.5", "--max-concurrent-requests", "7", "--max-requests-per-key", "3"),
        *("--rate-limit", "1.5", "--allowed-origins", "https://a.example,https://b.example", "--log-prompts"),
    )
    assert asked.limits.body_bytes == 512 * 1024
    assert (asked.limits.concurrency, asked.limits.caller_concurrency, asked.limits.caller_rate) == (7, 3, 1.5)
    assert asked.allowed_origins == ("https://a.example", "https://b.example")
    assert asked.log_prompts


@pytest.mark.parametrize(
    "flag", ["--max-body-size", "--max-concurrent-requests", "--max-requests-per-key", "--rate-limit"]
)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_limits_that_let_nothing_through(flag: str, value: str) -> None:
    with pytest.raises(UsageError, match=flag):
        settings(f"{flag}={value}")


@pytest.mark.parametrize(
    ("address", "flags", "told"),
    [
        ("0.0.0.0:8000", (), "port 8000"),
        ("[::]:8000", (), "every network"),
        ("192.168.1.5", (), "192.168.1.5"),
        ("0.0.0.0", ("--api-key", "sk"), None),
        ("127.0.0.1", (), None),
        ("localhost", (), None),
        ("unix:///run/x.sock", (), None),
    ],
)
def test_what_an_open_door_means_is_told(address: str, flags: tuple[str, ...], told: str | None) -> None:
    where = parse_address(address, None)
    said = exposure(settings(*flags, address=where), where)
    assert (said is None) if told is None else (said is not None and told in said and "--api-key" in said)


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_traces_reach_their_collector_before_the_end() -> None:
    pytest.importorskip("opentelemetry.exporter", reason="needs the extra 'otel'")
    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        parser = argparse.ArgumentParser()
        add_guard(parser)
        url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        operations, end = operations_of(parser.parse_args(["--otlp-traces-endpoint", url]))
        account = Account(endpoint="chat_completion", model="m", request_id="mine")
        for observer in operations.observers:
            observer.started(account)
            observer.ended(account)
        end()
        collector.shutdown()
    ((path, body),) = Collector.received
    assert path == "/v1/traces"
    assert all(text in body for text in (b"candle-vllm", b"chat m", b"mine"))


def test_traces_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "candle_vllm.server.traces", raising=False)
    parser = argparse.ArgumentParser()
    add_guard(parser)
    with pytest.raises(UsageError, match=r"candle-vllm\[otel\]"):
        operations_of(parser.parse_args(["--otlp-traces-endpoint", "http://127.0.0.1:1"]))
