"""candle-vllm chat: a conversation in the terminal, or over standard input and output.

Must not know of HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from candle_vllm.cli.loading import load_engine
from candle_vllm.cli.settings import sampling_defaults, served_names
from candle_vllm.openai import ApiError, OpenAIAdapter

_HELP = "/reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


class Conversation:
    """The messages so far, and the answers to the next ones."""

    def __init__(self, adapter: OpenAIAdapter, args: argparse.Namespace) -> None:
        self._adapter = adapter
        self._system: list[dict[str, Any]] = [{"role": "system", "content": args.system}] if args.system else []
        self._options = {
            "model": adapter.model_names[0],
            "max_tokens": args.max_tokens,
            "seed": args.seed,
            "stop": args.stop,
        }
        self._messages = list(self._system)

    def reset(self) -> None:
        """Forget all but the system message."""
        self._messages = list(self._system)

    def say(self, text: str) -> None:
        """Write the answer to ``text`` on standard output as it is generated; Ctrl-C ends it early."""
        self._messages.append({"role": "user", "content": text})
        answer = ""
        try:
            stream = self._adapter.chat_completion_stream({**self._options, "messages": self._messages})
            with contextlib.suppress(KeyboardInterrupt), contextlib.closing(stream):
                for chunk in stream:
                    piece = chunk.choices[0].delta.content or ""
                    answer += piece
                    print(piece, end="", flush=True)
        except ApiError:
            # The refused turn must not stand in the way of the next one.
            self._messages.pop()
            raise
        print(flush=True)
        self._messages.append({"role": "assistant", "content": answer})


def run_chat(args: argparse.Namespace) -> int:
    """Talk until the user leaves or the input ends. Returns the exit status."""
    defaults = sampling_defaults(args)
    with load_engine(args) as engine:
        adapter = OpenAIAdapter(engine, model_names=served_names(args), defaults=defaults)
        conversation = Conversation(adapter, args)
        if args.message is not None:
            conversation.say(args.message)
        elif sys.stdin.isatty():
            _talk(conversation, adapter.model_names[0])
        else:
            for line in sys.stdin:
                if line.strip():
                    conversation.say(line.strip())
    return 0


def _talk(conversation: Conversation, name: str) -> None:
    # Gives input() its line editing and history.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    print(f"{name}: {_HELP}", file=sys.stderr)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D leaves)", file=sys.stderr)
            continue
        if text in ("/exit", "/quit", "/bye"):
            return
        if text in ("/reset", "/clear"):
            conversation.reset()
        elif text in ("/help", "/?"):
            print(_HELP, file=sys.stderr)
        elif text:
            try:
                conversation.say(text)
            except ApiError as error:
                print(f"error: {error}", file=sys.stderr)
