"""RayConfig: what is the same for all replicas of one application. Must not know of Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from candle_vllm import checks
from candle_vllm.config import EngineConfig
from candle_vllm.models import Notation, SamplingDefaults, Waiting
from candle_vllm.openai import UnknownFields
from candle_vllm.server.boundary import BoundarySettings

__all__ = ["RayConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayConfig:
    """Replicas of one model. Raises ConfigError for what is out of range."""

    engine: EngineConfig = field(default_factory=lambda: EngineConfig(model_path="smollm2"))
    """Of each replica. Set `threads`: replicas on one machine share its cores."""
    replicas: int = 1
    """How many there are at least."""
    most_replicas: int | None = None
    """How many there may be where requests queue; None = as many as `replicas`, always."""
    more_after: float = 30.0
    """Seconds for which more requests run and wait than fit into the batches, before a replica is added."""
    fewer_after: float = 600.0
    """Seconds for which fewer replicas would do, before one is taken away."""
    cpus: float | None = None
    """Cores that Ray sets aside for each; None = `engine.threads`, or 1 where that is None."""
    names: tuple[str, ...] | None = None
    """Names that requests may use; None = any."""
    defaults: SamplingDefaults | None = None
    waiting: Waiting = field(default_factory=Waiting)
    notation: Notation | None = None
    boundary: BoundarySettings = field(default_factory=BoundarySettings)
    """Its limits hold for each replica, but `body_bytes`, which the endpoint holds."""
    request_timeout: float | None = None
    unknown_fields: UnknownFields = "refuse"
    max_queued: int = 1024
    """Requests that wait for a replica; one more is refused (503), to be sent again."""
    grace: float = 20.0
    """Seconds that a replica which is taken away has for the requests it runs."""

    def __post_init__(self) -> None:
        """Check."""
        checks.integer("replicas", self.replicas, 1)
        checks.optional_integer("most_replicas", self.most_replicas, self.replicas, none="as many as replicas")
        for name in ("more_after", "fewer_after", "grace"):
            checks.number(name, getattr(self, name), 0.0, 86_400.0)
        checks.integer("max_queued", self.max_queued, 1)

    @property
    def places(self) -> int:
        """Requests that a replica takes at a time: those that run, and as many that are there when one ends."""
        return 2 * self.engine.max_batch_size

    @property
    def cores(self) -> float:
        """Cores set aside for a replica."""
        return self.cpus if self.cpus is not None else float(self.engine.threads or 1)
