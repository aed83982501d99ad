"""The page for those who run the server: its figures as they are and as they were in the last minutes.

They are those that `/metrics` tells. Must not know where those come from.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

from fastapi import Request
from nicegui import ui

from candle_vllm.ui.services import Services

__all__ = ["PATH", "Figures"]

PATH = "/operator"
_EACH = 2.0
"""Seconds between looks."""
_KEPT = 150
"""Looks that are shown: five minutes."""


class Figures:
    """Readings of the metrics, and what follows from two of them."""

    def __init__(self) -> None:
        self.rows: deque[dict[str, float]] = deque(maxlen=_KEPT)
        self._before: tuple[float, Mapping[str, float]] | None = None

    def take(self, now: float, read: Mapping[str, float]) -> dict[str, float]:
        """Add a reading of moment `now`, by any clock that only goes on; gives what it shows."""
        then, before = self._before or (now, read)
        self._before = (now, read)
        span = now - then

        def grown(name: str) -> float:
            # A counter that is smaller than before began anew.
            return max(0.0, read.get(name, 0.0) - before.get(name, 0.0))

        def rate(name: str) -> float:
            return grown(name) / span if span > 0 else 0.0

        queries, hits = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
        looked = grown(queries)
        row = {
            "running": read.get("vllm:num_requests_running", 0.0),
            "waiting": read.get("vllm:num_requests_waiting", 0.0) + read.get("candle_vllm_queue_length", 0.0),
            "blocks": read.get("candle_vllm_kv_blocks_used", 0.0),
            "blocks_total": read.get("candle_vllm_kv_blocks", 0.0),
            "generated": rate("vllm:generation_tokens_total"),
            "prompt": rate("vllm:prompt_tokens_total"),
            "hits": 100 * grown(hits) / looked if looked else self.rows[-1]["hits"] if self.rows else 0.0,
            "hits_ever": 100 * read[hits] / read[queries] if read.get(queries) else 0.0,
            "requests": 60 * rate("vllm:request_success_total"),
            "first": _mean("vllm:time_to_first_token_seconds", read),
        }
        self.rows.append(row)
        return row


def _mean(name: str, read: Mapping[str, float]) -> float:
    count = read.get(f"{name}_count", 0.0)
    return read.get(f"{name}_sum", 0.0) / count if count else 0.0


_TILES = (
    ("running", "Running", "{:.0f}"),
    ("waiting", "Waiting", "{:.0f}"),
    ("blocks", "Blocks used", "{:.0f}"),
    ("generated", "Tokens/s", "{:.1f}"),
    ("hits_ever", "Prefix hits", "{:.0f} %"),
    ("first", "First token", "{:.2f} s"),
)
_CHARTS: Sequence[tuple[str, Mapping[str, str]]] = (
    ("Requests", {"running": "running", "waiting": "waiting"}),
    ("Tokens a second", {"generated": "generated", "prompt": "prompt"}),
    ("KV blocks used", {"blocks": "used"}),
    ("Prefix cache hits, %", {"hits": "of looked-up tokens"}),
)


@ui.page(PATH, title="candle-vllm: server figures")
async def operator(request: Request) -> None:
    """Show it."""
    from candle_vllm.ui.chat_page import begin

    if (begun := await begin(request)) is not None:
        services, _, stored = begun
        ui.dark_mode(stored.settings.dark)
        _OperatorPage(services)


class _OperatorPage:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._figures = Figures()
        self._times: deque[str] = deque(maxlen=_KEPT)
        with ui.element("main").classes("cv-operator"):
            with ui.element("header").classes("cv-top"):
                ui.button(icon="arrow_back", on_click=lambda: ui.navigate.to("/"), color=None).props(
                    'flat round dense aria-label="Back to the chat"'
                )
                ui.label("Server figures").classes("cv-title")
                self._state = ui.label().classes("cv-quiet")
            with ui.element("div").classes("cv-tiles"):
                self._tiles = {name: self._tile(label) for name, label, _ in _TILES}
            with ui.element("div").classes("cv-charts"):
                self._charts = [self._chart(title, series) for title, series in _CHARTS]
        ui.timer(_EACH, self.look)

    @staticmethod
    def _tile(label: str) -> ui.label:
        with ui.element("div").classes("cv-tile"):
            ui.label(label).classes("cv-quiet")
            return ui.label("…").classes("cv-number")

    @staticmethod
    def _chart(title: str, series: Mapping[str, str]) -> ui.echart:
        with ui.element("div").classes("cv-chart"):
            ui.label(title).classes("cv-caption")
            grey = "#868e96"
            return ui.echart(
                {
                    "animation": False,
                    "grid": {"left": 8, "right": 30, "top": 30, "bottom": 8, "containLabel": True},
                    "legend": {"show": len(series) > 1, "top": 0, "textStyle": {"color": grey}},
                    "tooltip": {"trigger": "axis"},
                    "xAxis": {"type": "category", "data": [], "axisLabel": {"color": grey}, "boundaryGap": False},
                    "yAxis": {
                        "type": "value",
                        "min": 0,
                        "minInterval": 0,
                        "axisLabel": {"color": grey},
                        "splitLine": {"lineStyle": {"color": "rgba(134,142,150,0.25)"}},
                    },
                    "color": ["#d9480f", "#1c7ed6"],
                    "series": [
                        {"name": name, "type": "line", "showSymbol": False, "areaStyle": {"opacity": 0.12}, "data": []}
                        for name in series.values()
                    ],
                }
            )

    async def look(self) -> None:
        """Take a reading and show it."""
        row = self._figures.take(time.monotonic(), await self._services.metrics.totals())
        self._times.append(time.strftime("%H:%M:%S"))
        status = self._services.adapter.served.status()
        self._state.set_text(f"{status.active_model or 'no model'} · {status.state}")
        for name, _, form in _TILES:
            self._tiles[name].set_text(form.format(row[name]))
        if row["blocks_total"]:
            self._tiles["blocks"].set_text(f"{row['blocks']:.0f} of {row['blocks_total']:.0f}")
        for chart, (_, series) in zip(self._charts, _CHARTS, strict=True):
            chart.options["xAxis"]["data"] = list(self._times)
            for at, name in enumerate(series):
                chart.options["series"][at]["data"] = [round(one[name], 2) for one in self._figures.rows]
            chart.update()
