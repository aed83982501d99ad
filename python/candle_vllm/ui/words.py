"""Words: what a page says of waiting, of models and of figures. Must not know where it is shown."""

from __future__ import annotations

from candle_vllm.models import ModelStatus, WaitStatus
from candle_vllm.ui.conversation import Answer
from candle_vllm.ui.progress import Loading

__all__ = ["figures", "state_of", "waiting"]


def waiting(wait: WaitStatus | None, loading: Loading | None) -> str:
    """What an answer waits for."""
    if wait is None:
        return "Reading the question …"
    match wait.status:
        case "queued":
            text = f"In the queue for {wait.model}: position {wait.position}"
        case "waiting_for_model":
            text = f"{wait.model} is next; the active model finishes its answers. Position {wait.position}"
        case "loading":
            text = f"Loading {wait.model}{_share(loading)}. Position {wait.position}"
        case _:
            return "Reading the question …"
    return text if wait.eta_ms is None else f"{text}, about {_seconds(wait.eta_ms)}"


def state_of(status: ModelStatus, loading: Loading | None) -> tuple[str, str]:
    """How the models stand, and the colour of that: `positive`, `warning`, `negative` or `grey`."""
    waiting = sum(status.queue_lengths.values())
    queue = f", {waiting} waiting" if waiting else ""
    match status.state:
        case "ready":
            return f"ready{queue}", "positive"
        case "switching":
            return f"switching{queue}", "warning"
        case "loading":
            return f"loading{_share(loading)}{queue}", "warning"
        case "error":
            return "failed", "negative"
        case _:
            return f"not loaded{queue}", "grey"


def figures(answer: Answer) -> str:
    """What an answer cost, and how it ended where that is worth telling."""
    parts = [answer.model] if answer.model else []
    if answer.tokens:
        parts.append(f"{answer.tokens} token" + "s" * (answer.tokens != 1))
    if answer.rate is not None:
        parts.append(f"{answer.rate:.1f} tokens/s")
    if answer.ended == "stopped":
        parts.append("stopped")
    elif answer.ended == "length":
        parts.append("cut off at its length limit")
    return " · ".join(parts)


def _share(loading: Loading | None) -> str:
    if loading is None:
        return ""
    share = "" if loading.share is None else f" {loading.share:.0%}"
    return f" ({loading.stage}{share})"


def _seconds(milliseconds: int) -> str:
    seconds = max(1, round(milliseconds / 1000))
    return f"{seconds} s" if seconds < 90 else f"{round(seconds / 60)} min"
