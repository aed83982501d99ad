"""Scheduling: which tokens run in the next step, by the rules of the engine's scheduler, over sequences of no content.

It is the twin of `rust/engine/src/scheduler/plan.rs` and `admit.rs`, rule by rule, for requests that differ from each
other and of which nobody drafts; a change there is a change here. Must not know how long a step takes.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

__all__ = ["Limits", "Scheduling", "Sequence", "Work", "limits_of"]

_LONG = 2
"""Long prompts that are computed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine's scheduler goes by."""

    step_tokens: int
    max_batch_size: int
    kv_blocks: int
    block_size: int
    max_sequence_length: int
    chunked_prefill: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What one step computes."""

    prompt_tokens: int = 0
    prompt_pairs: float = 0.0
    """Of these tokens, each with each key that it looks at."""
    decodes: int = 0
    """Sequences that compute the token that they said last."""
    decode_keys: int = 0
    """Keys that these look at."""
    speaking: int = 0
    """Sequences that say a token after it."""


def limits_of(engine: InferenceEngine) -> Limits:
    """Those of an engine."""
    info = engine.model_info
    return Limits(
        step_tokens=info.step_tokens,
        max_batch_size=info.max_batch_size,
        kv_blocks=info.kv_blocks,
        block_size=info.block_size,
        max_sequence_length=info.max_sequence_length,
        chunked_prefill=engine.config.enable_chunked_prefill,
    )


@dataclass(slots=True)
class Sequence:
    """A request on its way; its tokens are only counted."""

    number: int
    """Order of service."""
    prompt: int
    answer: int
    """Tokens that it will say."""
    cached: int = 0
    """Tokens of the prompt that the prefix cache holds: whole blocks."""
    said: int = 0
    computed: int = 0
    blocks: int = 0
    """Of its own, beside the cached ones."""
    decodes: bool = False
    spared: bool = False

    @property
    def tokens(self) -> int:
        """Prompt and answer so far."""
        return self.prompt + self.said

    @property
    def remaining(self) -> int:
        """Tokens that are not computed."""
        return self.tokens - self.computed


def _up(tokens: int, size: int) -> int:
    return -(-tokens // size)


@dataclass(slots=True)
class Scheduling:
    """The sequences that wait and run on one engine."""

    limits: Limits
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    """In order of service."""
    free: int = 0
    """Blocks."""
    preemptions: int = 0
    planned: list[tuple[Sequence, int]] = field(default_factory=list)
    """The next step: who takes part, with how many tokens."""

    def __post_init__(self) -> None:
        self.free = self.limits.kv_blocks

    def add(self, sequence: Sequence) -> None:
        """Put it into the queue."""
        self.waiting.append(sequence)

    def plan(self) -> Work:
        """Decide the next step; without tokens only when nothing runs."""
        scarce = self._grow_decodes()
        decoding = [s for s in self.running if self._decodes(s)]
        room = max(self.limits.step_tokens - len(decoding), 0)
        if not scarce:
            self._admit_all(room)
        prompts = [s for s in self.running if not s.decodes]
        shares = self._in_pieces(prompts, room) if self.limits.chunked_prefill else self._whole(prompts, room)
        given = [(s, tokens) for s, tokens in shares if tokens]
        self.planned = [*((s, 1) for s in decoding), *given]
        return Work(
            prompt_tokens=sum(tokens for _, tokens in given),
            prompt_pairs=sum(tokens * (s.computed + tokens / 2) for s, tokens in given),
            decodes=len(decoding),
            decode_keys=sum(s.tokens for s in decoding),
            speaking=len(decoding) + sum(tokens == s.remaining for s, tokens in given),
        )

    def book(self) -> list[Sequence]:
        """The planned step is computed. Returns those that have said a token; who has said all of them leaves."""
        spoke = []
        for s, tokens in self.planned:
            complete = tokens == s.remaining
            s.computed += tokens
            if complete:
                s.decodes, s.spared = True, False
                s.said += 1
                spoke.append(s)
                if s.said == s.answer:
                    self._retire(s)
        return spoke

    def _decodes(self, s: Sequence) -> bool:
        return s.decodes and s.tokens <= self._held(s)

    def _held(self, s: Sequence) -> int:
        """Tokens that its blocks hold."""
        return s.cached + s.blocks * self.limits.block_size

    def _retire(self, s: Sequence) -> None:
        self.running.remove(s)
        self.free += s.blocks
        s.blocks = 0

    def _grow_decodes(self) -> bool:
        """Give every decode the blocks for its tokens. True when there were not enough."""
        scarce, index = False, 0
        while index < len(self.running):
            s = self.running[index]
            if not s.decodes or self._decodes(s):
                index += 1
            elif self.free:
                self.free -= 1
                s.blocks += 1
            else:
                scarce = True
                behind = next((r for r in reversed(self.running[index + 1 :]) if not r.spared), None)
                if behind is None:
                    index += 1
                else:
                    self._preempt(behind)
        return scarce

    def _preempt(self, s: Sequence) -> None:
        self._retire(s)
        s.computed, s.decodes, s.spared = 0, False, True
        self.preemptions += 1
        # Its old place: it came before all who wait, but for others that were preempted.
        place = next((at for at, w in enumerate(self.waiting) if w.number > s.number), len(self.waiting))
        self.waiting.insert(place, s)

    def _admit_all(self, room: int) -> None:
        """Admit from the queue, in order of service, until the prompts that run fill `room`."""
        long = _up(room, 2) if self.limits.chunked_prefill else 1 << 62
        short = sum(s.remaining for s in self.running if not s.decodes and s.remaining <= long)
        patience, at = self.limits.max_batch_size, 0
        while short < room and patience and len(self.running) < self.limits.max_batch_size and at < len(self.waiting):
            s = self.waiting[at]
            s.computed = s.cached
            if s.remaining > long and self._long_ones(long) >= _LONG:
                patience, at = patience - 1, at + 1
                continue
            needed = _up(s.tokens - s.cached, self.limits.block_size)
            steps = _up(s.remaining, max(min(long, room), 1))
            if self.free < needed + self._reserve(steps):
                break
            del self.waiting[at]
            self.free -= needed
            s.blocks = needed
            insort(self.running, s, key=lambda r: r.number)
            if s.remaining <= long:
                short += s.remaining

    def _long_ones(self, long: int) -> int:
        return sum(not r.decodes and r.remaining > long for r in self.running)

    def _reserve(self, steps: int) -> int:
        """Blocks that those who run will ask for within so many steps."""
        size, reserved = self.limits.block_size, 0
        for r in self.running:
            held = self._held(r)
            then = min(max(r.tokens + steps, held + 1), max(r.prompt + r.answer - 1, r.tokens))
            reserved += max(_up(then - held, size), 0)
        return reserved

    def _in_pieces(self, prompts: list[Sequence], room: int) -> Iterable[tuple[Sequence, int]]:
        """The first in order of service gets half, the rest goes to those that have fewest tokens left."""
        if not prompts:
            return []
        first = prompts[0]
        reserved = min(first.remaining, _up(room, 2)) if len(prompts) > 1 else 0
        left = room - reserved
        shares = []
        for s in sorted(prompts, key=lambda s: (s.remaining - (reserved if s is first else 0), s.number)):
            taken = reserved if s is first else 0
            more = min(s.remaining - taken, left)
            left -= more
            shares.append((s, taken + more))
        return shares

    def _whole(self, prompts: list[Sequence], room: int) -> Iterable[tuple[Sequence, int]]:
        """Each whole, in order of service, while they fit; the first of them even if it does not."""
        shares = []
        for place, s in enumerate(prompts):
            if s.remaining <= room or place == 0:
                shares.append((s, s.remaining))
                room = max(room - s.remaining, 0)
        return shares
