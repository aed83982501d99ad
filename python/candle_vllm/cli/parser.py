"""Parser: argparse without abbreviations, whose mistakes cost two lines: what is wrong, and what was probably meant.

Must not know of any flag.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

__all__ = ["Parser", "one_of"]


class Parser(argparse.ArgumentParser):
    """`--h` is the host here, so nothing may be shortened; flags and words may stand in any order."""

    def __init__(self, prog: str | None = None, **settings: Any) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self.words: tuple[str, ...] = ()
        """What a word that nobody takes may have been meant to be."""

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags of this command line; SystemExit after `--help` or a mistake, with the message written."""
        # Only intermixed parsing finds several words with flags between, but it knows neither subparsers nor `--`.
        plain = self._subparsers is not None or "--" in argv
        args, unknown = (self.parse_known_args if plain else self.parse_known_intermixed_args)(list(argv))
        if unknown:
            # A value stands behind its flag: the flag is what is wrong.
            first = next((part for part in unknown if part.startswith("-") and part != "-"), unknown[0])
            self.error(self._unknown(first.partition("=")[0]))
        return args

    def error(self, message: str) -> NoReturn:
        """Write what is wrong and where help is, and end."""
        self.exit(2, f"{self.prog}: error: {message}\n{self.hint()}\n")

    def hint(self) -> str:
        """The line that says where help is."""
        return f"{self.prog} --help shows what there is"

    def _unknown(self, word: str) -> str:
        flag = word.startswith("-")
        meant = nearest(word, self._flags() if flag else self.words)
        said = f"there is no flag {word}" if flag else f"{word!r} is one word too many"
        return f"{said}; did you mean {meant}?" if meant else said

    def _flags(self) -> set[str]:
        known = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    known.update(parser._option_string_actions)
        return known


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearly this one, if any."""
    found = difflib.get_close_matches(word, sorted(known), 1, 0.6)
    return found[0] if found else None


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A reader of one of these names, in capitals or not."""
    listed = tuple(names)
    by_folded = {name.casefold(): name for name in listed}

    def read(text: str) -> str:
        if (name := by_folded.get(text.casefold())) is not None:
            return name
        meant = nearest(text.casefold(), by_folded)
        hint = f"; did you mean {by_folded[meant]}?" if meant else ""
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(listed)}{hint}")

    return read
