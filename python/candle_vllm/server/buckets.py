"""Upper bounds of histograms: vLLM's, with finer ones below where small models are faster. Seconds, or counts."""

from __future__ import annotations

__all__ = ["COUNT", "FIRST_TOKEN", "GAP", "LENGTH", "LOAD", "REQUEST"]

FIRST_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
"""Until the first token."""

GAP = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
"""Between tokens."""

REQUEST = (
    *(0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Of whole requests and their parts."""

LOAD = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
"""Of loading a model."""

COUNT = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Answers to a prompt."""

LENGTH = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))
"""Tokens, from 1 to 500,000."""
