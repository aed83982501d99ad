"""Hostile requests over the real server: a refusal in bounded time and memory, and the next request is fine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hostile import ROWS, Row, good

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")

MB = 1024 * 1024


class Server:
    """The real server in a process of its own."""

    def __init__(self, model: Path) -> None:
        script = Path(__file__).parents[1] / "hostile_server.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server ended"
        return line

    def longest_step(self) -> float:
        """Seconds that its loop's thread computed at the longest without a turn since this was asked last."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def memory(self, name: str) -> int:
        """A figure of /proc, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return int(status.split(f"{name}:")[1].split()[0]) * 1024

    def forget_peak(self) -> None:
        """Let the peak of memory begin anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", encoding="ascii")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def server(tiny_model_path: Path) -> Iterator[Server]:
    running = Server(tiny_model_path)
    # What is made only once is not a request's.
    for _ in range(3):
        answer(running.port, [good()])
    yield running
    running.end()


def answer(port: int, pieces: Sequence[bytes | float]) -> tuple[int, bytes]:
    """Status and body of the first reply to these pieces."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                try:
                    connection.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
        return read_reply(connection)


def read_reply(connection: socket.socket) -> tuple[int, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(fields[b"content-length"])
    while len(body) < length:
        body += connection.recv(65536)
    return int(head.split()[1]), body[:length]


def test_there_are_many_and_none_twice() -> None:
    assert len(ROWS) >= 60
    assert not [name for name, count in Counter(row.name for row in ROWS).items() if count > 1]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_refused(server: Server, row: Row) -> None:
    pieces = row.make()
    server.longest_step()
    server.forget_peak()
    before = server.memory("VmRSS")
    began = time.monotonic()
    status, body = answer(server.port, pieces)
    took = time.monotonic() - began
    assert status in row.statuses, (status, body[:300])
    error = json.loads(body)["error"]
    if not any(api in row.name for api in ("/v1/messages", "/api/")):
        assert {"message", "type", "param", "code"} <= set(error)
    assert len(body) < 2000
    assert took < 5
    assert answer(server.port, [good()])[0] == 200
    assert server.memory("VmHWM") - before < 100 * MB
    # Twice and more of what it takes, since the machine's other work fills the caches.
    assert server.longest_step() < 0.06
