"""Which tokens an answer may consist of, as a grammar over token ids: some alone, and without some sequences.

Knows how token ids are written in llguidance's dialect of Lark. Must not know of requests or of engines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

__all__ = ["MOST_BEGUN", "sequences_of", "token_grammar"]

MOST_BEGUN = 100
"""Different beginnings of sequences that one grammar tells apart; compiling more takes longer than a second."""

Ids = tuple[int, ...]
Encode = Callable[[str], list[int]]


def sequences_of(words: Iterable[str], encode: Encode) -> set[Ids]:
    """The token sequences that write these words: as they are, and within a text where a blank before makes others.

    The rule is vLLM's: the form with a blank counts where it has as many tokens and begins with another one.
    """
    found: set[Ids] = set()
    for word in words:
        bare = tuple(encode(word.lstrip()))
        spaced = tuple(encode(" " + word.lstrip()))
        found |= {bare} if bare else set()
        if spaced and len(spaced) == len(bare) and spaced[0] != bare[0]:
            found.add(spaced)
    return found


def token_grammar(allowed: Collection[int] | None, without: Collection[Ids], ends: Collection[int]) -> str:
    """A grammar for answers whose tokens are each one of `allowed` (None = any) and complete none of `without`.

    The answer may end anywhere, but where `allowed` has none of the model's own `ends` it goes on as long as it may.
    Raises ValueError for sequences of more than `MOST_BEGUN` different beginnings, and where no token is left.
    """
    automaton = _Automaton(without)
    kept = None if allowed is None else frozenset(allowed)
    if kept is not None and not kept - automaton.single:
        raise ValueError("they leave no token to answer with")
    if automaton.begun > MOST_BEGUN:
        raise ValueError(f"they have {automaton.begun} different beginnings, above {MOST_BEGUN}")
    body = "body" if automaton.begun else f"({_any(kept, automaton.first)})*"
    rules = automaton.rules(kept) if automaton.begun else []
    if kept is not None and not kept & set(ends):
        return "\n".join([f"start: {body} NEVER", *rules, "NEVER: /a/ & /b/"]) + "\n"
    return "\n".join([f"start: {body}", *rules]) + "\n"


class _Automaton:
    """What of forbidden sequences has been begun, after Aho and Corasick; states are their proper beginnings."""

    def __init__(self, without: Collection[Ids]) -> None:
        self._without = frozenset(without)
        self._states: dict[Ids, int] = {(): 0}
        for ids in self._without:
            for length in range(1, len(ids)):
                self._states.setdefault(ids[:length], len(self._states))
        self.begun = len(self._states) - 1
        self.first = frozenset(ids[0] for ids in self._without)
        self.single = frozenset(ids[0] for ids in self._without if len(ids) == 1)

    def rules(self, allowed: frozenset[int] | None) -> list[str]:
        """A rule a state, and `body`, which is any of them: what has been written when the state is reached."""
        choices: dict[Ids, list[str]] = {(): ['""']}
        # Most tokens lead to the same state from nearly all states, so sources are grouped.
        sources: dict[tuple[Ids, int], list[Ids]] = {}
        waiting: list[Ids] = [()]
        for state in waiting:
            told_apart = self.first | self._next(state)
            if other := _any(allowed, told_apart):
                choices[()].append(f"{self._name(state)} {other}")
            for token in sorted(told_apart if allowed is None else told_apart & allowed):
                if (after := self._after(state, token)) is not None:
                    sources.setdefault((after, token), []).append(state)
                    if after not in choices:
                        choices[after] = []
                        waiting.append(after)
        groups: dict[tuple[Ids, ...], str] = {}
        for (after, token), states in sources.items():
            group = groups.setdefault(tuple(states), f"g{len(groups)}")
            choices[after].append(f"{group} <[{token}]>")
        named = {self._name(state): body for state, body in choices.items()}
        named |= {group: [self._name(state) for state in states] for states, group in groups.items()}
        body = " | ".join(map(self._name, choices))
        return [f"body: {body}", *(f"{name}: {' | '.join(each)}" for name, each in named.items())]

    def _name(self, state: Ids) -> str:
        return f"s{self._states[state]}"

    def _next(self, state: Ids) -> set[int]:
        """Tokens that carry on something begun."""
        ends = {state[at:] for at in range(len(state) + 1)}
        return {ids[at] for ids in self._without for at in range(len(ids)) if ids[:at] in ends}

    def _after(self, state: Ids, token: int) -> Ids | None:
        """What is begun when this token follows, the longest there is; None where a sequence is whole."""
        written = (*state, token)
        ends = [written[at:] for at in range(len(written) + 1)]
        if any(end in self._without for end in ends):
            return None
        return next(end for end in ends if end in self._states)


def _any(allowed: frozenset[int] | None, but: Collection[int]) -> str:
    """Any one of the allowed tokens but these; "" where none is left."""
    if allowed is None:
        return f"<[^{_listed(but)}]>"
    return f"<[{_listed(allowed - set(but))}]>" if allowed - set(but) else ""


def _listed(ids: Collection[int]) -> str:
    """Ids as runs: `1-4,7`."""
    runs: list[list[int]] = []
    for token in sorted(ids):
        if runs and runs[-1][1] == token - 1:
            runs[-1][1] = token
        else:
            runs.append([token, token])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
