"""Tool calls read from what a model wrote, whole and as it arrives. Needs no model and no server."""

from candle_vllm import reasoning, tools

MENU = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
WRITTEN = """<think>
The user asks for Paris.
</think>

Let me look.
<tool_call>
<function=get_weather>
<parameter=city>
Paris
</parameter>
<parameter=days>
3
</parameter>
</function>
</tool_call>"""

# Whole: thinking first, then calls in what is left.
answer = reasoning.split(WRITTEN, "qwen3")
reply = tools.parse(answer.content, "qwen3_coder", MENU)
print(f"thought: {answer.reasoning}\nsaid: {reply.content}")
for call in reply.tool_calls:
    print(f"calls: {call.name} {call.arguments}")

# As it arrives, eight characters at a time: the events add up to the same.
thinking, calling = reasoning.Splitter("qwen3"), tools.Splitter("qwen3_coder", MENU)
pieces = [WRITTEN[at : at + 8] for at in range(0, len(WRITTEN), 8)]
texts = [part for piece in pieces for part in thinking.feed(piece)] + thinking.end()
for part in texts:
    if isinstance(part, reasoning.Text):
        for event in calling.feed(part.text):
            print(event)
for event in calling.end():
    print(event)
