"""A stand-in for the Hugging Face hub: one process, plain HTTP, as much of its API as its library asks for."""

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


class HubStandIn:
    """Serves repositories given as {id: {path: content}}; `failures` first requests for files break off."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.tokens: list[str | None] = []
        self.asked: list[str] = []
        self.failures = 0
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def files(self) -> list[str]:
        """Paths of the files that were sent."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in self.asked if "/resolve/" in path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.hub.asked.append(self.path)
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.hub.tokens.append(self.headers.get("Authorization"))
        url = urllib.parse.urlsplit(self.path)
        parts = urllib.parse.unquote(url.path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:], body)
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
        else:
            self._send(404, b"", {}, body)

    def _api(self, repo: str, rest: list[str], body: bool) -> None:
        if repo not in self.hub.repos:
            self._send(401, b'{"error": "x"}', {"X-Error-Code": "RepoNotFound"}, body)
        elif rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            self._send(404, b'{"error": "x"}', {"X-Error-Code": "RevisionNotFound"}, body)
        elif rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}
                for name, data in self.hub.repos[repo].items()
            ]
            self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body)
        else:
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": _digest(data)}
                for name, data in self.hub.repos[repo].items()
            ]
            info = {"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, repo: str, revision: str, name: str, body: bool) -> None:
        data = self.hub.repos.get(repo, {}).get(name)
        if repo in self.hub.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        elif data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        elif body and self.hub.failures > 0:
            self.hub.failures -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self._send(200, data, {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": COMMIT}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
