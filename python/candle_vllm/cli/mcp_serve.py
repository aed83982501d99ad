"""candle-vllm mcp-serve: the model as an MCP server, over standard input and output or over HTTP.

It answers at once and loads the model meanwhile; calls wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from dataclasses import replace
from typing import Any

from candle_vllm.cli.address import parse_address
from candle_vllm.cli.catalog import catalog_of
from candle_vllm.cli.flags import mcp_serve_parser
from candle_vllm.cli.guard import boundary_settings, exposure, operations_of
from candle_vllm.cli.loading import load_with
from candle_vllm.cli.settings import UsageError, notation
from candle_vllm.cli.signals import on_signals
from candle_vllm.errors import CandleVllmError
from candle_vllm.models import Catalog, EngineLoader, ModelManager, Waiting
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import logs
from candle_vllm.server.document import version

logger = logging.getLogger("candle_vllm.server")

_OF_HTTP = (
    *("host", "port", "api_key", "api_key_file", "allowed_hosts", "allowed_origins", "max_body_size"),
    *("max_concurrent_requests", "max_requests_per_key", "rate_limit", "log_prompts"),
)


_GRACE = 2.0
"""Seconds that calls have to end after a signal."""


def run_mcp_serve(args: argparse.Namespace) -> int:
    """Serve until standard input ends, or SIGINT or SIGTERM comes. Returns the exit status."""
    try:
        from candle_vllm.mcp.serving import model_server
    except ImportError as error:
        raise UsageError("mcp-serve needs the MCP library: pip install 'candle-vllm[mcp]' first") from error
    if args.transport == "stdio":
        parser = mcp_serve_parser()
        for name in _OF_HTTP:
            if getattr(args, name) != parser.get_default(name):
                raise UsageError(f"--{name.replace('_', '-')}: is for --transport http")
    logs.set_up(args.log_level, json_lines=args.log_format == "json")
    operations, end_traces = operations_of(args)
    catalog = catalog_of(args)
    models = _models(args, catalog)
    server = model_server(OpenAIAdapter(models, observers=operations.observers), version=version())
    try:
        return asyncio.run(_serve(args, models, server, alone=len(catalog) == 1))
    finally:
        end_traces()


def _models(args: argparse.Namespace, catalog: Catalog) -> ModelManager:
    loader = EngineLoader(
        open_engine=lambda entry, progress: load_with(args, entry.config, progress),
        waiting=Waiting(args.max_waiting, args.max_waiting_tokens),
        notation=notation(args),
    )
    fetch = loader.fetch if len(catalog) > 1 else None
    return ModelManager(catalog, loader.load, fetch=fetch, queue_size=args.queue_size)


async def _serve(args: argparse.Namespace, models: ModelManager, server: Any, *, alone: bool) -> int:
    """Serve until the end, which a model that cannot be loaded is where it stands `alone`; else calls are told."""
    ended = asyncio.Event()
    on_signals(asyncio.get_running_loop(), ended.set)
    failures: list[Exception] = []

    async def load() -> None:
        try:
            await models.activate()
        except CandleVllmError as error:
            if alone:
                failures.append(error.__cause__ if isinstance(error.__cause__, CandleVllmError) else error)
                ended.set()

    serve = _over_stdio(server, ended) if args.transport == "stdio" else _over_http(args, server, ended)
    loading = asyncio.create_task(load())
    try:
        await serve
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await models.aclose()
    if failures:
        raise failures[0]
    return 0


async def _over_stdio(server: Any, ended: asyncio.Event) -> None:
    """Serve until standard input ends or `ended` is set."""
    from candle_vllm.mcp.serving import serve_stdio

    serving, stop = asyncio.create_task(serve_stdio(server)), asyncio.create_task(ended.wait())
    await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    for task in (serving, stop):
        task.cancel()
    await asyncio.gather(stop, return_exceptions=True)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _over_http(args: argparse.Namespace, server: Any, ended: asyncio.Event) -> None:
    """Serve until `ended` is set."""
    from candle_vllm.cli.serve import Listening, bound
    from candle_vllm.server.listen import uvicorn_config
    from candle_vllm.server.mcp_door import MCP_PATH, mcp_app

    # Agents run beside it; who wants it reached from elsewhere says so.
    address = parse_address(args.host or "127.0.0.1", args.port)
    settings = boundary_settings(args, address)
    app, running = mcp_app(server, settings)
    http = Listening(uvicorn_config(app))

    async def stop() -> None:
        await ended.wait()
        http.should_exit = True
        # Streams of sessions end with the sessions, not by themselves.
        await asyncio.sleep(_GRACE)
        http.force_exit = True

    with bound(address) as listener:
        if address.path is None:
            address = replace(address, port=listener.getsockname()[1])
        if (warning := exposure(settings, address)) is not None:
            logger.warning("%s", warning)
        print(f"candle-vllm\n  {'serving':<11} {address.url}{MCP_PATH}", file=sys.stderr, flush=True)
        stopping = asyncio.create_task(stop())
        try:
            async with running:
                await http.serve(sockets=[listener])
        finally:
            stopping.cancel()
