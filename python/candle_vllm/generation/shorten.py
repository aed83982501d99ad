"""Which messages a conversation that is too long does without. Must not know how long a message is to a model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["shortened", "spans"]

Message = Mapping[str, Any]


def spans(messages: Sequence[Message]) -> list[range]:
    """What may be left out, oldest first.

    That is each turn from a user's message to before the next, and of the last turn each of the assistant's messages
    with the results of its calls. What the system says at the start, the user's last message and what came last stay.
    """
    roles = [message.get("role") for message in messages]
    first = next((at for at, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    users = [at for at, role in enumerate(roles) if role == "user"]
    turns = sorted({first, *users}) if users else []
    groups = [at for at in range(users[-1] + 1 if users else first, len(roles)) if roles[at] != "tool"]
    return [range(*pair) for begins in (turns, groups) for pair in pairwise(begins)]


def shortened(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> Sequence[Message]:
    """The messages without as few of the oldest as it takes to fit; where nothing fits, without all that may go.

    `fits` is asked about the logarithm of their number of times.
    """
    if fits(messages):
        return messages
    dropped = spans(messages)

    def rest(count: int) -> list[Message]:
        gone = {at for span in dropped[:count] for at in span}
        return [message for at, message in enumerate(messages) if at not in gone]

    return rest(bisect_left(range(len(dropped)), True, key=lambda count: fits(rest(count))))
