"""Requests that mean harm, or come from broken programs: what is sent, and which refusals are right.

A row's bytes are sent as they are; a float among them is a pause in seconds. The server that they are meant for has
the key `sk-test`, is bound to localhost, and is less patient than others: see `test_hostile.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ROWS", "Row", "good"]

MB = 1024 * 1024
KEY = "Authorization: Bearer sk-test"
TYPE = "Content-Type: application/json"
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@dataclass(frozen=True)
class Row:
    """One request; `statuses` are the refusals that are right."""

    name: str
    make: Callable[[], Sequence[bytes | float]]
    statuses: tuple[int, ...]


ROWS: list[Row] = []


def head(line: str, *headers: str, host: str | None = "localhost") -> bytes:
    named = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([line, *named, *headers, "", ""]).encode("latin-1")


def row(name: str, statuses: int | tuple[int, ...], make: Callable[[], Sequence[bytes | float]]) -> None:
    ROWS.append(Row(name, make, (statuses,) if isinstance(statuses, int) else statuses))


def raw(name: str, statuses: int | tuple[int, ...], *pieces: bytes | float) -> None:
    row(name, statuses, lambda: pieces)


def posted(body: bytes, path: str = CHAT, *headers: str) -> bytes:
    given = headers or (KEY, TYPE)
    return head(f"POST {path} HTTP/1.1", *given, f"Content-Length: {len(body)}") + body


def body(name: str, make: Callable[[], bytes], statuses: int | tuple[int, ...] = 400, path: str = CHAT) -> None:
    row(name, statuses, lambda: [posted(make(), path)])


def chat(name: str, statuses: int | tuple[int, ...] = 400, **fields: Any) -> None:
    request = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}], **fields}
    body(name, lambda: json.dumps(request).encode(), statuses)


def text(name: str, fragment: str, statuses: int | tuple[int, ...] = 400) -> None:
    """A chat request with this member written as it is, for what no JSON writer writes."""
    whole = f'{{"model":"tiny","max_tokens":1,"messages":[{{"role":"user","content":"hi"}}],{fragment}}}'
    body(name, lambda: whole.encode(), statuses)


def messages(*items: Any) -> bytes:
    """A chat request's body."""
    return json.dumps({"model": "tiny", "messages": items}).encode()


def dripping(first: bytes, piece: bytes) -> list[bytes | float]:
    """Three seconds of pieces."""
    return [first, *[part for _ in range(60) for part in (piece, 0.05)]]


def get(*headers: str, host: str | None = "localhost") -> bytes:
    return head("GET /v1/models HTTP/1.1", *headers, host=host)


def post(*headers: str) -> bytes:
    return head(f"POST {CHAT} HTTP/1.1", KEY, TYPE, *headers)


def good() -> bytes:
    """A request that is in order, whose connection then closes."""
    return get(KEY, "Connection: close")


# Ways around the key

for path in (
    "/v1/models",
    "/health/../v1/models",
    "//health",
    "/health//",
    "/health;/../v1/models",
    "/health%2f..%2fv1%2fmodels",
    "/%68ealth/../v1/models",
    "/%76%31/models",
    "/HEALTH",
    "/health%00",
    "/health%0d%0a",
    "/health/decode",
    "/ready",
    "/metrics",
    "/v1/usage",
    "/openapi.json",
    "/docs",
    "/nowhere",
    "/v1/models?path=/health",
    "/v1/models#/health",
    "http://localhost/v1/models",
    "http://health/v1/models",
):
    raw(f"no key: {path}", 401, head(f"GET {path} HTTP/1.1"))
raw("no key: star", (400, 401), head("OPTIONS * HTTP/1.1"))
raw("no key: POST", 401, posted(b"{}", CHAT, TYPE))
raw("no key: other methods", 401, head("DELETE /v1/models HTTP/1.1"))
raw(
    "no key: the path in other headers",
    401,
    get("X-Original-URL: /health", "X-Rewrite-URL: /health"),
)
raw(
    "no key: forwarded",
    401,
    get("X-Forwarded-Prefix: /v1/models", "X-Forwarded-For: 127.0.0.1"),
)
raw("no key: in the query", 401, head("GET /v1/models?api_key=sk-test HTTP/1.1"))
raw("no key: in a cookie", 401, get("Cookie: authorization=sk-test"))
raw("no key: behind a good one", 401, get(KEY, "Authorization: Bearer other"))
raw("no key: before a good one", 401, get("x-api-key: other", KEY))
raw("no key: Basic", 401, get("Authorization: Basic c2stdGVzdA=="))
raw("no key: too short", 401, get("Authorization: Bearer sk-tes"))
raw("no key: 30 KB", 401, get("Authorization: Bearer " + "x" * 30_000))
raw("no key: bytes", 401, get("Authorization: Bearer \xff\xfe"))
raw("no key: NUL", 400, get("Authorization: Bearer sk-test\x00"))
raw("no key: a name with a space", 400, get("Authorization : Bearer sk-test"))
raw(
    "no key: in a trailer",
    401,
    head(f"POST {CHAT} HTTP/1.1", TYPE, "Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n"
    + KEY.encode()
    + b"\r\n\r\n",
)

# Hosts and origins

for host in (
    "evil.example",
    "localhost.evil.example",
    "localhost/health?",
    "evil.example:2000",
    "a@localhost",
    "[::ffff:1]",
):
    raw(f"host: {host}", 421, get(KEY, host=host))
raw("host: none", 400, get(KEY, host=None))
raw("host: two", 400, get(KEY, "Host: evil.example"))
for kind in (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
):
    raw(f"type: {kind}", 415, posted(b"{}", CHAT, KEY, f"Content-Type: {kind}"))
raw("type: none, from a page", 415, posted(b"{}", CHAT, KEY, "Origin: https://evil.example"))
raw("type: two", 415, posted(b"{}", CHAT, KEY, TYPE, "Content-Type: text/plain"))
raw("type: compressed", 415, posted(b"{}", CHAT, KEY, TYPE, "Content-Encoding: gzip"))

# Heads

raw("head: 150 headers", 431, get(KEY, *["a: b"] * 150))
raw("head: 5,000 headers", 431, get(KEY, *["a: b"] * 5000))
raw("head: 40 KB", 431, get(KEY, "a: " + "b" * 40_000))
raw("head: 20 MB", 431, b"GET / HTTP/1.1\r\na: ", *[b"b" * MB] * 20)
raw("head: a long name", 431, b"GET / HTTP/1.1\r\n", *[b"b" * 10_000] * 20)
raw("head: a long URL", 414, head("GET /" + "a" * 100_000 + " HTTP/1.1", KEY))
raw("head: a long model name", (404, 414), head("GET /v1/models/" + "a" * 15_000 + " HTTP/1.1", KEY))
raw("head: no HTTP", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200)
raw("head: folded", 400, get("a: b\r\n c", KEY) + b"\x00")
raw("head: slow", 408, *dripping(b"GET / HTTP/1.1\r\n", b"a: b\r\n"))
raw(
    "head: two lengths",
    400,
    post("Content-Length: 2", "Content-Length: 3") + b"{} ",
)
raw(
    "head: length and chunks",
    400,
    post("Content-Length: 2", "Transfer-Encoding: chunked") + b"{}",
)
raw("head: a negative length", 400, post("Content-Length: -2") + b"{}")
raw("head: an unknown coding", 400, post("Transfer-Encoding: gzip") + b"{}")

# Bodies on their way

CHUNKED = post("Transfer-Encoding: chunked")
raw("chunks: no size", 400, CHUNKED + b"zz\r\n{}\r\n")
raw("chunks: a size too large", 400, CHUNKED + b"f" * 20 + b"\r\n")
raw("chunks: no end of line", 400, CHUNKED + b"2\r\n{}xx")
raw("chunks: trailers without end", (400, 431), CHUNKED + b"2\r\n{}\r\n0\r\n", *[b"a: " + b"b" * MB] * 10)
raw("chunks: too many", 413, CHUNKED, *[b"100000\r\n" + b" " * MB + b"\r\n"] * 9)
raw("length: too large", 413, post(f"Content-Length: {10**12}"))
raw("length: a little too large", 413, post(f"Content-Length: {8 * MB + 1}"))
raw("body: slow", 408, *dripping(post("Content-Length: 999"), b" "))
raw("body: never", 408, post("Content-Length: 999"), 1.5)

# JSON that is none, or too much

for name, wrong in (
    ("nothing", b""),
    ("cut off", b'{"messages":[{"role":"user","content":"a'),
    ("a list", b"[1]"),
    ("null", b"null"),
    ("a text", b'"x"'),
    ("a NUL", b'{"model":"\x00"}'),
    ("bytes", b'{"model":"\xff\xfe"}'),
    ("UTF-16", '{"model":"x"}'.encode("utf-16")),
    ("overlong UTF-8", b'{"model":"\xc0\xaf"}'),
    ("a comma too many", b'{"model":"x",}'),
    ("comments", b'{"model":"x" /* y */}'),
    ("single quotes", b"{'model':'x'}"),
):
    raw(f"json: {name}", 400, posted(wrong))
body("json: 8 MB of zeros", lambda: b'{"messages":[' + b"0," * (4 * MB - 20) + b"0]}")
body("json: zeros below the bound", lambda: b'{"messages":[' + b"0," * 139_000 + b"0]}")
body("json: 8 MB of brackets", lambda: b"[" * (8 * MB))
body("json: nested and closed", lambda: b'{"messages":' + b"[" * (3 * MB) + b"]" * (3 * MB) + b"}")
body("json: nested objects", lambda: b'{"a":' * MB + b"1" + b"}" * MB)
body("json: nested below the bound", lambda: b'{"metadata":' + b"[" * 90 + b"]" * 90 + b"}")
body("json: 2 M prompts", lambda: b'{"prompt":[' + b"[1]," * (2 * MB - 20) + b"[1]]}", path=COMPLETIONS)
body("json: 19,000 prompts", lambda: b'{"prompt":[' + b"[1]," * 19_000 + b"[1]]}", path=COMPLETIONS)
body("json: 139,000 ids", lambda: b'{"prompt":[' + b"1," * 139_000 + b"1]}", path=COMPLETIONS)
body("json: 139,000 texts", lambda: b'{"prompt":[' + b'"a",' * 139_000 + b'"a"]}', path=COMPLETIONS)
body("json: 200,000 messages", lambda: b'{"messages":[' + b"{}," * 200_000 + b"{}]}")
body("json: 19,000 messages", lambda: json.dumps({"messages": [{"role": "user", "content": ""}] * 19_000}).encode())
body(
    "json: 500,000 objects",
    lambda: json.dumps({"messages": [{"role": "user", "content": "a", "x": [{}] * 500_000}]}).encode(),
)
body(
    "json: 19,000 objects",
    lambda: json.dumps({"messages": [{"role": "clown", "content": "a", "x": [{}] * 19_000}]}).encode(),
)
body(
    "json: 19,000 parts",
    lambda: json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 19_000}]}).encode(),
)
body("json: 1 M members", lambda: ("{" + ",".join(f'"k{n}":1' for n in range(700_000)) + "}").encode())
body("json: 29,000 members", lambda: ("{" + ",".join(f'"k{n}":1' for n in range(29_000)) + "}").encode())
body("json: 139,000 members", lambda: ("{" + ",".join(f'"k{n}":1' for n in range(139_000)) + "}").encode())
body("json: a member's name of 7 MB", lambda: b'{"' + b"k" * (7 * MB) + b'":1}')
body("json: backslashes", lambda: b'{"model":"' + b"\\" * (8 * MB - 100) + b'"}', (400, 404))
body("json: a role of 7 MB", lambda: json.dumps({"messages": [{"role": "r" * (7 * MB), "content": ""}]}).encode())
body(
    "json: a model of 7 MB",
    lambda: json.dumps({"model": "m" * (7 * MB), "messages": [{"role": "user", "content": "a"}]}).encode(),
    404,
)
body("json: 7 MB of digits", lambda: b'{"seed":' + b"9" * (7 * MB) + b"}")
body("json: a prompt of 7 MB", lambda: json.dumps({"prompt": "word " * (7 * MB // 5)}).encode(), path=COMPLETIONS)
body(
    "json: a message of 7 MB",
    lambda: json.dumps({"messages": [{"role": "user", "content": "word " * (7 * MB // 5)}]}).encode(),
)

LONG = "word " * (7 * MB // 5)
SAID = [{"role": "user", "content": LONG}]
for path, request in (
    ("/tokenize", {"prompt": LONG}),
    ("/tokenize", {"messages": SAID}),
    ("/v1/chat/completions/render", {"messages": SAID}),
    ("/v1/messages/count_tokens", {"model": "tiny", "messages": SAID}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": SAID}),
    ("/api/generate", {"model": "tiny", "prompt": LONG}),
    ("/api/chat", {"model": "tiny", "messages": SAID}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": [0] * 139_000}),
    ("/api/chat", {"model": "tiny", "messages": [0] * 139_000}),
    ("/detokenize", {"tokens": ["a"] * 139_000}),
):
    raw(f"json: {path} {len(ROWS)}", 400, posted(json.dumps(request).encode(), path))
body("json: a model of 1 MB to select", lambda: b'{"model":"' + b"m" * MB + b'"}', 404, "/v1/models/select")

# Values

text("value: half a surrogate", '"stop":"\\ud800"')
text("value: half a surrogate in a message", '"messages":[{"role":"user","content":"\\udc00"}]')
text("value: half a surrogate in a name", '"model":"\\ud83d"', (400, 404))
text("value: NUL in a name", '"model":"\\u0000"', 404)
for name in ("temperature", "top_p", "frequency_penalty", "min_p"):
    for wrong_number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", '"NaN"'):
        text(f"value: {name} {wrong_number}", f'"{name}":{wrong_number}')
text("value: a bias of NaN", '"logit_bias":{"1":NaN}')
text("value: a bias of 1e400", '"logit_bias":{"1":1e400}')
text("value: a bias with a key of 5,000 digits", '"logit_bias":{"' + "1" * 5000 + '":1}')
text("value: a bias with a negative key", '"logit_bias":{"-1":1}')
text("value: a seed of 5,000 digits", '"seed":' + "1" * 5000)
text("value: max_tokens of 400 digits", '"max_tokens":' + "1" * 400)
text("value: max_tokens 1e400", '"max_tokens":1e400')
chat("value: n", n=10**9)
chat("value: a negative n", n=-1)
chat("value: top_logprobs", logprobs=True, top_logprobs=10**9)
chat("value: 1,025 stops", stop=["a"] * 1025)
chat("value: an empty stop", stop=[""])
chat("value: stop_token_ids", stop_token_ids=[2**40])
chat("value: top_k", top_k=2**70)
chat("value: priority", priority=2**40)
chat("value: 10,000 tools", tools=[{"type": "function", "function": {"name": "f"}}] * 9_000)
chat("value: a tool without a name", tools=[{"type": "function", "function": {}}])
chat(
    "value: arguments nested",
    messages=[
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[" * 100_000 + "]" * 100_000}}
            ],
        },
    ],
)
chat("value: a reserved template variable", chat_template_kwargs={"self": 1})
chat("value: template variables", chat_template_kwargs={"messages": []})
chat("value: text where a number stands", max_tokens="many")
chat("value: true where a number stands", max_tokens=True)
chat("value: an unknown member", nonsense=1)

# Responses


def response(name: str, statuses: int | tuple[int, ...] = 400, **fields: Any) -> None:
    request = {"model": "tiny", "max_output_tokens": 1, "input": "hi", **fields}
    body(f"response: {name}", lambda: json.dumps(request).encode(), statuses, RESPONSES)


def item(**fields: Any) -> list[Any]:
    return [{"role": "user", "content": "hi"}, fields]


response("half of a surrogate pair", input="\ud800")
response(
    "half of a surrogate pair in an item", input=item(role="user", content=[{"type": "input_text", "text": "\ud800"}])
)
response("numbers for items", input=list(range(200_000)))
response("a million items", (400, 413), input=[{}] * 1_000_000)
response("more parts than bounds", input=item(role="user", content=[{"type": "input_text", "text": "a"}] * 2_000))
chat("an MCP server of the network", mcp={"url": "http://169.254.169.254/"})
chat("an MCP server to start", mcp={"command": "sh", "args": ["-c", "id"]})
chat("MCP servers that there are not", mcp={"servers": ["x"] * 900})
chat("50,000 MCP servers", mcp={"servers": ["x"] * 50_000})
chat("turns without number", mcp={"max_turns": 2**63})
chat(
    "30,000 calls of MCP tools",
    messages=[{"role": "assistant", "mcp_calls": [{"id": "x", "turn": 1, "name": "f", "arguments": "{"}] * 30_000}],
)
response("more items than bounds", input=[{"role": "user", "content": "a"}] * 20_000)
response("a long text", input="word " * 1_200_000)
response("a long text that no leaving out makes short", truncation="auto", input="word " * 1_200_000)
response("long instructions", instructions="word " * 500_000)
response("an output without its call", input=item(type="function_call_output", call_id="c", output="x"))
response("arguments nested", input=item(type="function_call", call_id="c", name="f", arguments="[" * 600_000))
response("a reference to nothing", 404, input=item(type="item_reference", id="x" * 200))
response("an id of megabytes", input=item(type="item_reference", id="x" * 2_000_000))
response("a previous one of megabytes", previous_response_id="x" * 2_000_000)
response(
    "a server's tool from the network",
    tools=[{"type": "mcp", "server_label": "x", "server_url": "http://169.254.169.254/"}],
)
response("9,000 tools", tools=[{"type": "function", "name": "f"}] * 9_000)
response(
    "a schema nested",
    text={"format": {"type": "json_schema", "name": "x", "schema": json.loads('{"a":' * 90 + "1" + "}" * 90)}},
)
response("metadata of 100,000 pairs", metadata={str(key): "" for key in range(100_000)})
response("an unknown member", nonsense=1)
response("background without a store", background=True, store=False)
response("a reserved template variable", chat_template_kwargs={"self": 1})
for path in ("resp_x", "x" * 8_000, "..%2f..%2fetc%2fpasswd", "%00", "resp_x/input_items", "a/b/c"):
    raw(f"response: asked for {path[:20]}", (400, 404, 405), head(f"GET {RESPONSES}/{path} HTTP/1.1", KEY))
for query in ("limit=0", "limit=101", "limit=x", "order=up"):
    raw(f"response: items, {query}", (400, 404), head(f"GET {RESPONSES}/resp_x/input_items?{query} HTTP/1.1", KEY))
raw("response: from -1", (400, 404), head(f"GET {RESPONSES}/resp_x?stream=true&starting_after=-1 HTTP/1.1", KEY))
raw("response: no key", 401, head(f"GET {RESPONSES}/resp_x HTTP/1.1"))
raw("response: cancelled, unknown", 404, posted(b"", f"{RESPONSES}/resp_x/cancel"))
raw("response: deleted, unknown", 404, head(f"DELETE {RESPONSES}/resp_x HTTP/1.1", KEY))

# Conversations

HI = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def conversation(name: str, *items: Any, **fields: Any) -> None:
    """A chat with these messages."""
    chat(f"messages: {name}", messages=list(items), **fields)


conversation("none")
conversation("a text", "hi")
conversation("null", None)
conversation("a number", 5)
conversation("no role", {"content": "hi"})
conversation("an unknown role", {"role": "clown", "content": "hi"})
conversation("a role in capitals", {"role": "User", "content": "hi"})
conversation("a role of a number", {"role": 1, "content": "hi"})
conversation("no content", {"role": "user"})
conversation("content null", {"role": "user", "content": None})
conversation("content of a number", {"role": "user", "content": 5})
conversation("content of an object", {"role": "user", "content": {"text": "hi"}})
conversation("parts of texts", {"role": "user", "content": ["hi"]})
conversation("a part without a type", {"role": "user", "content": [{"text": "hi"}]})
conversation("a part without its text", {"role": "user", "content": [{"type": "text"}]})
for kind in ("image_url", "input_audio", "file", "nonsense"):
    conversation(f"a part of {kind}", {"role": "user", "content": [{"type": kind, kind: {"url": "x"}}]})
conversation("a result of no call", HI, {"role": "tool", "content": "x", "tool_call_id": "c"})
conversation("a result before its call", {"role": "tool", "content": "x", "tool_call_id": "c"}, HI)
conversation(
    "a result of another call",
    HI,
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": "x", "tool_call_id": "d"},
)
conversation("a result without an id", HI, {"role": "tool", "content": "x"})
conversation("calls of a user", {"role": "user", "content": "x", "tool_calls": [CALL]})
conversation("a call without a function", HI, {"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]})
conversation("a call without an id", HI, {"role": "assistant", "tool_calls": [{**CALL, "id": None}]})
for name, arguments in (("no JSON", "{"), ("an object", {"a": 1}), ("null", None), ("nested", "[" * 5000)):
    function = {"name": "f", "arguments": arguments}
    conversation(f"arguments: {name}", HI, {"role": "assistant", "tool_calls": [{**CALL, "function": function}]})
conversation("nothing to go on with", HI, {"role": "assistant", "content": ""}, continue_final_message=True)
conversation("to go on and to begin", HI, continue_final_message=True, add_generation_prompt=True)

# Tools


def tool(name: str, parameters: Any, statuses: int | tuple[int, ...] = 400, **fields: Any) -> None:
    """A chat that must call a tool with this schema."""
    given = {"name": "f", "parameters": parameters, "strict": True}
    chat(f"tool: {name}", statuses, tools=[{"type": "function", "function": given}], tool_choice="required", **fields)


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


tool("a schema that is a list", [])
tool("a schema that is true", True)
tool("a schema that is a text", "object")
tool("a schema that is a number", 5)
tool("a reference to nowhere", {"$ref": "#/$defs/nowhere"})
tool("a reference to elsewhere", {"type": "object", "properties": {"a": {"$ref": "https://evil.example/s.json"}}})
tool("a schema that nothing fits", {"type": "object", "properties": {"a": False}, "required": ["a"]})
tool("an unknown type", {"type": "object", "properties": {"a": {"type": "nonsense"}}})
tool("a keyword that is not held", {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})
tool("nested beyond the bound", nested(60))
tool("a pattern that is no expression", {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})
tool("a pattern that looks ahead", {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}})
tool("required that is a text", {"type": "object", "properties": {"a": {}}, "required": "a"})
tool("properties that are a list", {"type": "object", "properties": ["a"]})
for name, choice in (
    ("another tool", {"type": "function", "function": {"name": "g"}}),
    ("no name", {"type": "function"}),
    ("nonsense", "sometimes"),
    ("a number", 1),
    ("of another kind", {"type": "custom", "custom": {"name": "f"}}),
    ("allowed none", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
):
    chat(f"tool_choice: {name}", tools=[{"type": "function", "function": {"name": "f"}}], tool_choice=choice)
chat("tool: null", tools=[None])
chat("tool: a text", tools="f")
chat("tool: a name with a blank", tools=[{"type": "function", "function": {"name": "a b"}}])
chat("tool: a name of 200 letters", tools=[{"type": "function", "function": {"name": "a" * 200}}])
chat("tool: both kinds", tools=[{"type": "function", "function": {"name": "f"}}], functions=[{"name": "f"}])

# Forms

for name, form in (
    ("no type", {}),
    ("an unknown type", {"type": "xml"}),
    ("no schema", {"type": "json_schema"}),
    ("a schema without a name", {"type": "json_schema", "json_schema": {"schema": {}}}),
    ("a schema that is a list", {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}),
    ("rings", {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}}),
    ("a text", "json"),
):
    chat(f"form: {name}", response_format=form)
for name, pattern in (
    ("no expression", "("),
    ("looks ahead", "(?!a)b"),
    ("refers back", r"(a)\1"),
    ("long", "a" * 600_000),
):
    chat(f"regex: {name}", guided_regex=pattern)
chat("regex: and a grammar", guided_regex="a", guided_grammar='start: "a"')
chat("grammar: none", guided_grammar="hello")
chat("grammar: a rule that is not there", guided_grammar="start: nowhere")
chat("grammar: deep groups", guided_grammar="root ::= " + "(" * 5000 + '"a"' + ")" * 5000)
chat("choice: none", guided_choice=[])
chat("choice: numbers", guided_choice=[1])
chat("bad_words: blank", bad_words=[" "])
chat("allowed_token_ids: none", allowed_token_ids=[])
chat("allowed_token_ids: beyond the vocabulary", allowed_token_ids=[10**6])

# Templates

BOMB = "{% for a in range(999999999) %}{% for b in range(999999999) %}x{% endfor %}{% endfor %}"
chat("template: of the request's own", chat_template=BOMB)
chat("template: in place of messages", chat_template_kwargs={"messages": BOMB})
chat("template: in place of tools", chat_template_kwargs={"tools": BOMB})
chat("template: variables that are a text", chat_template_kwargs=BOMB)
chat("template: documents that are texts", documents=[BOMB])
chat("template: documents that it does not know", documents=[{"text": BOMB}])
chat("template: an effort that is none", reasoning_effort=BOMB)
chat("template: a budget of what it does not do", thinking_token_budget=5)

# Options

chat("options: of a stream that is none", stream_options={"include_usage": True})
chat("options: unknown", stream=True, stream_options={"nonsense": True})
chat("options: a text", stream="yes")
chat("options: log-probabilities without their switch", top_logprobs=2)
chat("options: audio", modalities=["text", "audio"])
chat("options: a search", web_search_options={})
chat("options: no tokens", max_tokens=0)
chat("options: a budget below nothing", thinking_token_budget=-1)
chat("options: prompt_logprobs", prompt_logprobs=-2)
body("completion: a suffix", lambda: b'{"prompt":"a","suffix":"b"}', path=COMPLETIONS)
body("completion: best_of", lambda: b'{"prompt":"a","best_of":9}', path=COMPLETIONS)
body("completion: no prompt", lambda: b'{"max_tokens":1}', path=COMPLETIONS)
body("completion: a prompt of mixed kinds", lambda: b'{"prompt":["a",1]}', path=COMPLETIONS)
body("completion: ids beyond the vocabulary", lambda: b'{"prompt":[999999]}', path=COMPLETIONS)
