"""serve --replicas and run-batch --ray: what flags mean for engines that Ray runs. Must not know how it runs them."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from candle_vllm.cli.address import Address
from candle_vllm.cli.catalog import catalog_of
from candle_vllm.cli.guard import boundary_settings, exposure
from candle_vllm.cli.settings import UsageError, notation
from candle_vllm.cli.signals import on_signals
from candle_vllm.errors import CandleVllmError

if TYPE_CHECKING:
    from candle_vllm.ray import RayConfig
    from candle_vllm.server.boundary import BoundarySettings

__all__ = ["ray_config", "ray_running", "run_replicas"]

_CLUSTER = "RAY_ADDRESS"
"""Environment variable that names a cluster; without it Ray runs on this machine alone."""
_OF_ONE_SERVER = (
    *("queue_size", "max_stored_responses", "max_stored_bytes", "log", "log_level", "log_format", "verbose"),
    *("ui_server", "mcp_config", "mcp_command", "mcp_args", "mcp_max_turns", "mcp_by_default", "otlp_traces_endpoint"),
)


def run_replicas(args: argparse.Namespace, address: Address) -> int:
    """Serve with so many replicas until SIGINT or SIGTERM. Returns the exit status."""
    from candle_vllm.cli.flags import serve_parser

    plain = serve_parser(explicit=True)
    for name in _OF_ONE_SERVER:
        if getattr(args, name) != plain.get_default(name):
            raise UsageError(f"--{name.replace('_', '-')}: is not available with --replicas")
    if address.path is not None or address.port == 0:
        raise UsageError("--h: with --replicas it is a host and a port")
    boundary = boundary_settings(args, address)
    config = ray_config(args, args.replicas, boundary)
    with ray_running():
        from ray import serve

        from candle_vllm.ray import serve_app

        serve.start(http_options={"host": address.host, "port": address.port})
        try:
            serve.run(serve_app(config), name="candle-vllm")
            if (warning := exposure(boundary, address)) is not None:
                print(warning, file=sys.stderr)
            print(f"candle-vllm\n  {'replicas':<11} {config.replicas}", file=sys.stderr)
            print(f"  {'serving':<11} {address.url}/v1", file=sys.stderr, flush=True)
            asyncio.run(_signalled())
        except RuntimeError as error:
            raise CandleVllmError(f"the replicas cannot be started: {error}") from error
        finally:
            serve.shutdown()
    return 0


def ray_config(args: argparse.Namespace, replicas: int, boundary: BoundarySettings | None = None) -> RayConfig:
    """What each replica is. Fetches the model. Raises UsageError."""
    if replicas < 1:
        raise UsageError(f"--replicas {replicas}: must be at least 1")
    try:
        import ray  # noqa: F401 - told here, not from the middle of it
    except ImportError as error:
        raise UsageError("replicas need Ray: pip install 'candle-vllm[ray]' first") from error
    from candle_vllm.models import EngineLoader, Waiting
    from candle_vllm.ray import RayConfig
    from candle_vllm.server.boundary import BoundarySettings

    catalog = catalog_of(args)
    if len(catalog) > 1:
        raise UsageError("replicas serve one model; name it with --m in a folder without models.yaml")
    entry = catalog.default
    if entry.config.threads is None and _CLUSTER in os.environ:
        raise UsageError(f"--threads: is needed with {_CLUSTER}, for the machines there have cores of their own")
    threads = entry.config.threads or max(1, _cores() // replicas)
    asyncio.run(EngineLoader().fetch(entry))
    return RayConfig(
        engine=replace(entry.config, threads=threads),
        replicas=replicas,
        names=entry.names,
        defaults=entry.defaults,
        waiting=Waiting(getattr(args, "max_waiting", None), getattr(args, "max_waiting_tokens", None)),
        notation=notation(args),
        boundary=boundary or BoundarySettings(),
        request_timeout=getattr(args, "request_timeout", None),
        unknown_fields=getattr(args, "unknown_fields", "refuse"),
        grace=getattr(args, "shutdown_timeout", 5.0),
    )


@contextmanager
def ray_running() -> Iterator[None]:
    """Ray on this machine, or connected to the cluster that the environment names; left again at the end."""
    # It tells nobody what is run here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(include_dashboard=None if _CLUSTER in os.environ else False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


async def _signalled() -> None:
    """Wait for SIGINT or SIGTERM."""
    told = asyncio.Event()
    on_signals(asyncio.get_running_loop(), told.set)
    await told.wait()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
