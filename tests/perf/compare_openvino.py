"""candle-vllm beside OpenVINO GenAI on one `.gguf` file; see README.md. Not collected by pytest."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from interleaved import context, main


class OpenVino:
    """OpenVINO GenAI's continuous batching on the CPU, prefix cache off."""

    def __init__(self, args: argparse.Namespace) -> None:
        try:
            import numpy as np
            import openvino
            import openvino_genai
        except ImportError as error:
            raise SystemExit(f"{error}. To install the peer: pip install openvino-genai numpy") from None
        self._np, self._ov, self._genai = np, openvino, openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_seqs = max(1, *args.batch)
        scheduler.max_num_batched_tokens = max(context(args), 2048)
        scheduler.cache_size = 4
        properties = {"INFERENCE_NUM_THREADS": args.threads}
        self._pipe = openvino_genai.ContinuousBatchingPipeline(args.model[0], scheduler, "CPU", properties)
        self.vocabulary = len(self._pipe.get_tokenizer().get_vocab())

    def prepare(self, lengths: list[int], tokens: int) -> None:
        """See Runner."""

    def together(self, prompts: list[list[int]], tokens: int) -> Iterator[int]:
        """See Runner."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        inputs = [self._ov.Tensor(self._np.array([prompt], dtype=self._np.int64)) for prompt in prompts]
        handles = [self._pipe.add_request(at, each, config) for at, each in enumerate(inputs)]
        made = [0] * len(handles)
        begun = False
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
            for at, handle in enumerate(handles):
                if handle.can_read():
                    made[at] += sum(len(output.generated_ids) for output in handle.read().values())
            if not begun and all(made):
                begun = True
                yield sum(made)
        if made != [tokens] * len(made):
            raise SystemExit(f"requests made {made} of {tokens} tokens")


if __name__ == "__main__":
    main("OpenVINO", OpenVino)
