"""A stdio MCP server that misbehaves in the way its argument names. Written by hand: no library would let it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODE = sys.argv[1]
NOTES = Path(sys.argv[2]) if len(sys.argv) > 2 else None
CALLS = 0


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def raw(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    if NOTES is not None:
        with NOTES.open("a") as file:
            file.write(text + "\n")


def answer(identity: Any, result: dict[str, Any]) -> None:
    say({"id": identity, "result": result})


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


def tools(cursor: str | None) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    listed = [{"name": "echo", "description": "Says it again", "inputSchema": schema}]
    if MODE == "pages":
        at = int(cursor or 0)
        return {"tools": [{**listed[0], "name": f"echo{at}"}], "nextCursor": str(at + 1)}
    if MODE == "changing":
        listed.append({**listed[0], "name": f"extra{CALLS}"})
    if MODE == "typed":
        listed[0]["outputSchema"] = {
            "type": "object",
            "properties": {"count": {"type": "integer"}},
            "required": ["count"],
        }
    if MODE == "evil":
        listed[0]["outputSchema"] = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
    if MODE == "remote_ref":
        listed[0]["inputSchema"] = {
            "type": "object",
            "properties": {"text": {"$ref": os.environ["REMOTE_SCHEMA"]}},
        }
    return {"tools": listed}


def call(identity: Any, said: str) -> None:
    global CALLS
    CALLS += 1
    note(f"call {said}")
    if MODE == "slow":
        time.sleep(30)
    elif MODE == "silent":
        return
    elif MODE == "crashing":
        sys.stderr.write("RuntimeError: out of paper\n")
        sys.stderr.flush()
        os._exit(3)
    elif MODE == "malformed":
        raw('{"jsonrpc": "2.0", "id": ' + str(identity) + ', "result": {"content": [\n')
        return
    elif MODE == "wrong_id":
        answer(987_654, text(said))
        return
    elif MODE == "huge":
        answer(identity, text("x" * 50_000_000))
        return
    elif MODE == "storm":
        for _ in range(20_000):
            say({"method": "notifications/message", "params": {"level": "info", "data": "hello"}})
            say({"method": "notifications/tools/list_changed"})
    elif MODE == "half":
        raw('{"jsonrpc": "2.0", "id"')
        os._exit(0)
    elif MODE == "no_content":
        answer(identity, {"content": "none"})
        return
    elif MODE == "protocol_error":
        say({"id": identity, "error": {"code": -32603, "message": "the database is locked"}})
        return
    elif MODE == "typed":
        answer(identity, {**text("one"), "structuredContent": {"count": said}})
        return
    elif MODE == "evil":
        answer(identity, {**text(said), "structuredContent": {"x": "a" * 60 + "!"}})
        return
    elif MODE == "asking":
        asked = {"sure": {"type": "boolean"}, "why": {"type": "string", "default": "because"}}
        schema = {"type": "object", "properties": asked}
        say({"id": "q", "method": "elicitation/create", "params": {"message": "Sure?", "requestedSchema": schema}})
        said = sys.stdin.readline()
    elif MODE == "changing":
        say({"method": "notifications/tools/list_changed"})
    answer(identity, text(said))


def handle(message: dict[str, Any]) -> None:
    method, identity = message.get("method"), message.get("id")
    if method == "server/discover":
        note("discover")
        if MODE == "old":
            os._exit(1)
        if MODE == "mute":
            return
        say({"id": identity, "error": {"code": -32601, "message": "Method not found"}})
    elif method == "initialize":
        note("initialize")
        if MODE == "mute":
            return
        answer(
            identity,
            {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "hostile", "version": "1"},
            },
        )
    elif method == "tools/list":
        answer(identity, tools((message.get("params") or {}).get("cursor")))
    elif method == "tools/call":
        call(identity, message["params"]["arguments"].get("text", ""))
    elif method == "ping":
        answer(identity, {})


def main() -> None:
    if MODE == "dead":
        sys.exit("cannot start")
    if MODE == "banner":
        raw("Welcome to the server!\n\n{not json}\n[1, 2]\n")
    if MODE in ("grandchild", "stubborn"):
        # It holds this process's pipes, and, where stubborn, ignores being asked to go.
        ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if MODE == "stubborn" else ""
        child = subprocess.Popen([sys.executable, "-c", f"{ignore}import time; time.sleep(600)"])
        note(f"grandchild {child.pid}")
    for line in sys.stdin:
        handle(json.loads(line))
    if MODE == "deaf":
        time.sleep(600)


main()
