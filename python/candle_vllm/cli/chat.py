"""candle-vllm chat, or run: a conversation in the terminal, or over standard input and output.

Must not know of HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from candle_vllm.cli.loading import load_engine
from candle_vllm.cli.settings import sampling_defaults, served_names
from candle_vllm.cli.terminal import readable
from candle_vllm.errors import CandleVllmError
from candle_vllm.models import SamplingDefaults
from candle_vllm.openai import ApiError, OpenAIAdapter

_HELP = """/reset         forget the conversation
/system TEXT   what the model is told before it; without a text, forget that
/save FILE     write the conversation as JSON
/exit          leave (or Ctrl-D); Ctrl-C stops an answer"""

_FOR_TALK = SamplingDefaults(temperature=0.7, min_p=0.05)
"""Where neither flags nor the checkpoint say anything: at the API's temperature of 1 small models ramble."""


class Conversation:
    """The messages so far, and the answers to the next ones."""

    def __init__(self, adapter: OpenAIAdapter, args: argparse.Namespace) -> None:
        self._adapter = adapter
        self._options = {
            "model": adapter.model_names[0],
            "max_tokens": args.max_tokens,
            "seed": args.seed,
            "stop": [readable(stop) for stop in args.stop] if args.stop else None,
        }
        self._system = readable(args.system or "")
        self._turns: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All of it, in OpenAI's form."""
        system = [{"role": "system", "content": self._system}] if self._system else []
        return [*system, *self._turns]

    def reset(self) -> None:
        """Forget all but the system message."""
        self._turns.clear()

    def instruct(self, text: str) -> None:
        """Set what the model is told before the conversation; nothing where the text is empty."""
        self._system = text

    def save(self, file: Path) -> None:
        """Write the messages as JSON. Raises OSError."""
        file.write_text(json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def say(self, text: str) -> None:
        """Write the answer to ``text`` on standard output as it is generated; Ctrl-C ends it early.

        A turn that fails is forgotten, so that it does not stand in the way of the next one.
        """
        question = {"role": "user", "content": text}
        answer = ""
        stream = self._adapter.chat_completion_stream({**self._options, "messages": [*self.messages, question]})
        try:
            with contextlib.suppress(KeyboardInterrupt), contextlib.closing(stream):
                for chunk in stream:
                    piece = chunk.choices[0].delta.content or ""
                    answer += piece
                    print(piece, end="", flush=True)
        except BaseException:
            if answer:
                print(flush=True)
            raise
        print(flush=True)
        if answer:
            self._turns += [question, {"role": "assistant", "content": answer}]


def run_chat(args: argparse.Namespace) -> int:
    """Talk until the user leaves or the input ends. Returns the exit status."""
    defaults = sampling_defaults(args)
    with load_engine(args) as engine:
        if not engine.model_info.generation_config:
            defaults = defaults.over(_FOR_TALK)
        with OpenAIAdapter(engine, model_names=served_names(args), defaults=defaults) as adapter:
            conversation = Conversation(adapter, args)
            if args.message is not None:
                conversation.say(readable(args.message))
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
    print(f"{name}: /help shows the commands, /exit leaves", file=sys.stderr)
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
        try:
            if text.startswith("/"):
                _obey(conversation, text)
            elif text:
                conversation.say(text)
        except (CandleVllmError, OSError) as error:
            print(f"error: {error}{_advice(error)}", file=sys.stderr)


def _obey(conversation: Conversation, text: str) -> None:
    """One command of the terminal."""
    command, _, rest = text.partition(" ")
    match command, rest.strip():
        case (("/help" | "/?"), _):
            print(_HELP, file=sys.stderr)
        case (("/reset" | "/clear"), _):
            conversation.reset()
            print("(the conversation is forgotten)", file=sys.stderr)
        case "/system", told:
            conversation.instruct(told)
            print("(from now on)" if told else "(no system message any more)", file=sys.stderr)
        case "/save", "":
            print("/save FILE: name a file", file=sys.stderr)
        case "/save", file:
            conversation.save(Path(file).expanduser())
            print(f"(saved to {file})", file=sys.stderr)
        case _:
            print(f"there is no {command}:\n{_HELP}", file=sys.stderr)


def _advice(error: Exception) -> str:
    full = isinstance(error, ApiError) and error.code == "context_length_exceeded"
    return "\n/reset forgets the conversation, which makes room again" if full else ""
