"""candle-vllm beside llama.cpp on one `.gguf` file; see README.md. Not collected by pytest."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from interleaved import main


class LlamaCpp:
    """llama.cpp through the C functions of llama-cpp-python, several sequences in one context."""

    def __init__(self, args: argparse.Namespace) -> None:
        try:
            import llama_cpp
        except ImportError as error:
            raise SystemExit(
                f"{error}. To install the peer (6 minutes; gcc 12's build crashes on machines with AMX):\n"
                "CC=clang-19 CXX=clang++-19 CMAKE_ARGS=-DGGML_NATIVE=ON "
                "pip install --no-binary llama-cpp-python llama-cpp-python"
            ) from None
        self._api = api = llama_cpp
        api.llama_backend_init()
        # Kept: the library calls it as long as it lives.
        self._quiet = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self._quiet, None)
        self._model = api.llama_model_load_from_file(args.model[0].encode(), api.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {args.model[0]}")
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._threads = args.threads
        self._made_for: tuple[int, int] | None = None
        self._context: Any = None
        self._batch: Any = None

    def prepare(self, lengths: list[int], tokens: int) -> None:
        """See Runner."""
        # A context per case: each sequence has a cache of its own, no longer than it needs.
        each = -(-(max(lengths) + tokens) // 256) * 256
        if self._made_for == (len(lengths), each):
            self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
            return
        api = self._api
        if self._context is not None:
            api.llama_batch_free(self._batch)
            api.llama_free(self._context)
        room = each * len(lengths)
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = room
        params.n_seq_max = len(lengths)
        params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = self._threads
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise SystemExit(f"llama.cpp cannot make a context of {room} tokens")
        self._batch = api.llama_batch_init(room, 0, 1)
        self._made_for = (len(lengths), each)

    def together(self, prompts: list[list[int]], tokens: int) -> Iterator[int]:
        """See Runner."""
        rows = [
            (token, place, sequence, place == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        chosen = self._decode(rows)
        yield len(chosen)
        for step in range(1, tokens):
            rows = [(chosen[s], len(prompt) + step - 1, s, True) for s, prompt in enumerate(prompts)]
            chosen = self._decode(rows)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute (token, position, sequence, wants logits) rows; the likeliest token of each row with logits."""
        api, batch = self._api, self._batch
        batch.n_tokens = len(rows)
        for at, (token, position, sequence, logits) in enumerate(rows):
            batch.token[at] = token
            batch.pos[at] = position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = sequence
            batch.logits[at] = logits
        if (status := api.llama_decode(self._context, batch)) != 0:
            raise SystemExit(f"llama_decode gave {status}")
        return [self._likeliest(at) for at, row in enumerate(rows) if row[3]]

    def _likeliest(self, row: int) -> int:
        import numpy as np

        # A view of the library's own buffer: nothing is copied but the answer.
        logits: Any = np.ctypeslib.as_array(
            self._api.llama_get_logits_ith(self._context, row), shape=(self.vocabulary,)
        )
        return int(logits.argmax())


if __name__ == "__main__":
    main("llama.cpp", LlamaCpp)
