"""serve_app: a Ray Serve application of replicas, one engine each, behind one endpoint.

What a replica answers is what `create_app` answers; the endpoint only forwards. Must not know of command lines.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from candle_vllm.batch import Answered, Answering, UnansweredError
from candle_vllm.engine import InferenceEngine
from candle_vllm.models import SingleModel
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.openai.responses import ResponseStore
from candle_vllm.ray.asgi import Door, LostError, Messages, run_app
from candle_vllm.ray.config import RayConfig
from candle_vllm.ray.prefixes import prefix_keys
from candle_vllm.ray.router import PrefixRouter
from candle_vllm.server import create_app
from candle_vllm.server.health import DecodeProbe
from candle_vllm.server.operations import Operations

__all__ = ["Endpoint", "RayAnswering", "Replica", "replicas_handle", "serve_app"]

logger = logging.getLogger("candle_vllm.ray")

_LOOK = 5.0
"""Seconds between two looks at whether a replica's tokens come."""
_PATIENCE = 30.0
"""Seconds that a look may take; a replica that fails three times is replaced."""
_DRAIN = 600.0
"""Seconds that an endpoint which is replaced has for what it has taken, requests that wait for a replica included."""
_TRIES = 5
_PAUSE = 1.0
_GONE = (RayActorError, DeploymentUnavailableError, BackPressureError)


class Replica:
    """One engine with the whole application over it."""

    async def __init__(self, config: RayConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        operations = Operations()
        engine = await asyncio.to_thread(InferenceEngine, config.engine)
        self._models = models = SingleModel(
            engine,
            config.names,
            config.defaults,
            waiting=config.waiting,
            observer=operations.metrics,
            notation=config.notation,
        )
        # Each look is one of its own: three that fail are three.
        self._probe = DecodeProbe(models, fresh=0.0)
        self._answer = Answering(OpenAIAdapter(models, observers=operations.observers))
        self._app = create_app(
            models,
            request_timeout=config.request_timeout,
            boundary=config.boundary,
            operations=operations,
            # Another replica would not know what this one stored.
            store=ResponseStore(0, 0),
            unknown_fields=config.unknown_fields,
        )

    async def asgi(self, keys: Sequence[bytes], head: dict[str, Any], body: bytes) -> AsyncGenerator[Messages, None]:
        """One HTTP request."""
        self._end_if_failed()
        async for messages in run_app(self._app, head, body):
            if any(message.get("status", 0) >= 500 for message in messages):
                self._end_if_failed()
            yield messages

    async def line(self, keys: Sequence[bytes], url: str, body: Mapping[str, Any]) -> Answered:
        """One line of a batch file."""
        self._end_if_failed()
        answered = await self._answer(url, body)
        if answered.status >= 500:
            self._end_if_failed()
        return answered

    async def check_health(self) -> None:
        """As Serve asks now and then: whether tokens come."""
        self._end_if_failed()
        found = await self._probe.look()
        if not found.ok:
            raise RuntimeError(f"the engine gives no tokens: {found.status}")

    def _end_if_failed(self) -> None:
        """End the process once its engine has failed, which is for good: whoever waits for it is told to ask again.

        To refuse is quick: the router would take this replica for the least busy one and send it all there is, until
        its health has been asked for three times. A process that is gone, it forgets at once.
        """
        status = self._models.status()
        if status.state == "error":
            logger.error("the engine has failed, and its replica ends: %s", status.last_error)
            logging.shutdown()
            os._exit(1)


@serve.ingress()
class Endpoint:
    """What clients reach."""

    def __init__(self, replicas: DeploymentHandle, most: int) -> None:
        self._replicas = replicas.options(method_name="asgi", stream=True)
        self._most = most

    def __serve_build_asgi_app__(self) -> Door:
        return Door(self._forward, self._most)

    async def _forward(self, keys: Sequence[bytes], head: dict[str, Any], body: bytes) -> AsyncIterator[Messages]:
        try:
            async for messages in self._replicas.remote(keys, head, body):
                yield messages
        except _GONE as error:
            raise LostError(_said(error)) from error


def _said(error: BaseException) -> str:
    if isinstance(error, BackPressureError):
        return "Too many requests wait for a replica. Please retry."
    if isinstance(error, UnansweredError):
        return str(error)
    return "The replica that was to answer is gone. Please retry."


def serve_app(config: RayConfig) -> serve.Application:
    """The application, for `serve.run` or `serve deploy`: OpenAI's API at one address over several engines."""
    door = serve.deployment(
        name="Endpoint",
        # It computes nothing; its requests are those of all replicas, and those that wait.
        max_ongoing_requests=config.max_queued + config.places * (config.most_replicas or config.replicas),
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=max(_DRAIN, config.grace),
    )(Endpoint)
    return door.bind(_replicas(config), config.boundary.limits.body_bytes)


def replicas_handle(config: RayConfig, name: str = "candle-vllm-batch") -> DeploymentHandle:
    """The replicas alone, running, without an endpoint: for `RayAnswering`. Raises what keeps them from starting."""
    return serve.run(_replicas(config), name=name, route_prefix=None)


def _replicas(config: RayConfig) -> serve.Application:
    fixed = config.most_replicas in (None, config.replicas)
    scaling = AutoscalingConfig(
        min_replicas=config.replicas,
        max_replicas=config.most_replicas or config.replicas,
        # Requests under way and waiting, for each replica: more than run in one batch are a reason for another.
        target_ongoing_requests=config.engine.max_batch_size,
        upscale_delay_s=config.more_after,
        downscale_delay_s=config.fewer_after,
        # Serve hears of queues every 10 seconds, and wants to average over more; over longer than one waits is no use.
        look_back_period_s=min(30.0, max(11.0, config.more_after)),
    )
    deployment = serve.deployment(
        name="Replica",
        num_replicas=config.replicas if fixed else None,
        autoscaling_config=None if fixed else scaling,
        max_ongoing_requests=config.places,
        max_queued_requests=config.max_queued,
        ray_actor_options={"num_cpus": config.cores},
        health_check_period_s=_LOOK,
        health_check_timeout_s=_PATIENCE,
        graceful_shutdown_timeout_s=config.grace,
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter,
            request_router_kwargs={"most_ahead": max(4, config.engine.max_batch_size // 2)},
        ),
    )(Replica)
    return deployment.bind(config)


class RayAnswering:
    """A batch file's `Answer` by replicas, which are asked again where one dies or is busy."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas.options(method_name="line")

    async def __call__(self, url: str, body: Mapping[str, Any]) -> Answered:
        """The reply of one of them."""
        keys = prefix_keys(url, json.dumps(body).encode())
        for left in reversed(range(_TRIES)):
            try:
                return Answered(*await self._replicas.remote(keys, url, body))
            except (*_GONE, UnansweredError) as error:
                if not left:
                    raise UnansweredError(f"no replica answers: {_said(error)}") from error
                await asyncio.sleep(_PAUSE)
        raise AssertionError("the last try returns or raises")
