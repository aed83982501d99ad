"""A byte-level BPE vocabulary of any size, made of letters, so that random models read and write text.

Every token but three is text: an answer of a random model gives text with every token. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase

__all__ = ["LEAST", "Vocabulary", "build"]

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPACE = "\u0120"  # what a space is in a byte-level vocabulary
LEAST = len(_SPECIAL) + 256
"""Tokens of the smallest vocabulary."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id with their GGUF types (1 text, 3 control), merges from the best on, and ids of special tokens."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos: int
    eos: int
    unknown: int


def build(size: int) -> Vocabulary:
    """A vocabulary of exactly ``size`` tokens, at least `LEAST` and at most about 500,000."""
    tokens = [*_SPECIAL, *_bytes()]
    merges: list[str] = []
    for left, right in _pairs():
        if len(tokens) >= size:
            break
        tokens.append(left + right)
        merges.append(f"{left} {right}")
    if len(tokens) != size:
        raise ValueError(f"a vocabulary of {size} tokens cannot be made")
    types = [3] * len(_SPECIAL) + [1] * (size - len(_SPECIAL))
    return Vocabulary(tokens, types, merges, bos=1, eos=2, unknown=0)


def _bytes() -> Iterator[str]:
    """The character that stands for each byte, as GPT-2 chose them: printable ones for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    for byte in range(256):
        yield chr(byte if byte in printable else next(others))


def _pairs() -> Iterator[tuple[str, str]]:
    """Merges: each joins two tokens that earlier ones made, and no two make the same token."""
    two = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]
    yield from ((pair[0], pair[1]) for pair in two)
    yield from ((_SPACE, letter) for letter in ascii_lowercase)
    yield from ((_SPACE + pair[0], pair[1]) for pair in two)
    yield from ((pair, letter) for pair in two for letter in ascii_lowercase)
    yield from ((_SPACE + pair, letter) for pair in two for letter in ascii_lowercase)
    yield from product(two, two)
