"""A server that runs the tools of MCP servers for its clients, here the official OpenAI client. See docs/mcp.md.

Needs `pip install 'candle-vllm[mcp]' openai`.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from openai import OpenAI

SERVERS = Path(__file__).parent / "servers"
config = {
    "mcpServers": {
        name: {"command": sys.executable, "args": [str(SERVERS / f"{name}.py")]} for name in ("notes", "clock")
    }
}
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "mcp.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "candle_vllm", "serve", "smollm2", "--h", "127.0.0.1", "--p", "0"]
    with subprocess.Popen([*command, "--mcp-config", file], stderr=subprocess.PIPE, encoding="utf-8") as server:
        try:
            assert server.stderr is not None
            address = next(found[1] for line in server.stderr if (found := re.search(r"serving +(http\S+)", line)))
            with OpenAI(base_url=address, api_key="not needed") as client:
                reply = client.chat.completions.create(
                    model="smollm2",
                    messages=[{"role": "user", "content": "Which notes do I have?"}],
                    # So small a model seldom calls a tool by itself; the turn after this one is free.
                    tool_choice={"type": "function", "function": {"name": "list_notes"}},
                    temperature=0,
                    max_tokens=100,
                    extra_body={"mcp": {"servers": ["notes"], "max_turns": 2}},
                )
                [choice] = reply.choices
                for call in (choice.message.model_extra or {}).get("mcp_calls", []):
                    print(f"{call['server_label']}: {call['name']}({call['arguments']}) -> {call['output']}")
                print(choice.finish_reason, choice.message.content)
                print(reply.usage)
        finally:
            server.terminate()
