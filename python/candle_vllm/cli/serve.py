"""candle-vllm serve: bind, listen, load the model behind the open port, and end in good order on a signal.

Must not know of endpoints.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn

from candle_vllm.cli.address import Address, parse_address
from candle_vllm.cli.catalog import catalog_of
from candle_vllm.cli.guard import boundary_settings, exposure, operations_of
from candle_vllm.cli.loading import load_with, loading_bars, summary
from candle_vllm.cli.mcp import mcp_settings
from candle_vllm.cli.settings import UsageError, notation
from candle_vllm.cli.signals import on_signals
from candle_vllm.cli.web_page import both, web_of
from candle_vllm.errors import CandleVllmError, ModelLoadError
from candle_vllm.models import EngineLoader, ModelManager, Waiting
from candle_vllm.openai.responses import ResponseStore
from candle_vllm.server import create_app, logs
from candle_vllm.server.listen import allow_connections, uvicorn_config
from candle_vllm.server.protocol import BoundedProtocol

logger = logging.getLogger("candle_vllm.server")

_LOG_FILE = "candle-vllm.log"


def run_serve(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status: 0 after a signal, 1 when the model cannot be loaded."""
    address = parse_address(args.host, args.port)
    if args.replicas is not None:
        from candle_vllm.cli.replicas import run_replicas

        return run_replicas(args, address)
    server = Service(args, address)
    level = "debug" if args.verbose else args.log_level
    logs.set_up(level, json_lines=args.log_format == "json", files=[_LOG_FILE] if args.log else ())
    with bound(address) as listener, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(server.run(listener))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def bound(address: Address) -> Iterator[socket.socket]:
    """A listening socket, bound before anything is loaded, so that a port in use is told at once."""
    if address.path is not None:
        with _unix_listener(address.path) as listener:
            try:
                yield listener
            finally:
                with contextlib.suppress(FileNotFoundError):
                    Path(address.path).unlink()
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    both = address.host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        raise CandleVllmError(f"cannot listen on {address.host} port {address.port}: {error.strerror}") from error
    with listener:
        yield listener


def _unix_listener(path: str) -> socket.socket:
    probe = socket.socket(socket.AF_UNIX)
    with probe:
        try:
            probe.connect(path)
        except OSError:
            # No one listens: what lies there is left over from a server that was killed, if it is a socket at all.
            with contextlib.suppress(OSError):
                if Path(path).is_socket():
                    Path(path).unlink()
        else:
            raise CandleVllmError(f"cannot listen on {path}: another server does")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise CandleVllmError(f"cannot listen on {path}: {error.strerror or error}") from error
    return listener


class Listening(uvicorn.Server):
    """uvicorn, but signals are this module's: uvicorn would end the process by the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


class Service:
    """One server with its models: loads the first, serves, ends."""

    def __init__(self, args: argparse.Namespace, address: Address) -> None:
        self._args = args
        self._address = address
        self._catalog = catalog_of(args)
        self._boundary = boundary_settings(args, address)
        self._mcp = mcp_settings(args)
        self._operations, self._end_traces = operations_of(args)
        self._loader = EngineLoader(
            open_engine=lambda entry, progress: load_with(args, entry.config, progress),
            waiting=Waiting(args.max_waiting, args.max_waiting_tokens),
            notation=notation(args),
            observer=self._operations.metrics,
        )
        self._web = web_of(args)
        self._loader.progress = self._web.progress
        self._failure: BaseException | None = None

    async def run(self, listener: socket.socket) -> int:
        """Serve on ``listener`` until told to stop."""
        models = self._models()
        grace = self._args.shutdown_timeout
        app = create_app(
            models,
            request_timeout=self._args.request_timeout,
            boundary=self._boundary,
            operations=self._operations,
            store=ResponseStore(self._args.max_stored_responses, self._args.max_stored_bytes),
            unknown_fields=self._args.unknown_fields,
            mcp=self._mcp,
        )
        self._mcp.servers.start()
        # Streams are ended by closing the engine; uvicorn's limit is for connections that even then do not end.
        connections = 2 * (self._boundary.limits.concurrency or BoundedProtocol.max_connections)
        allow_connections(connections)
        config = uvicorn_config(
            self._web.around(app),
            shutdown_seconds=grace,
            max_connections=connections,
            socket_bytes=self._web.socket_bytes,
        )
        server = Listening(config)
        loop = asyncio.get_running_loop()
        on_signals(loop, lambda: self._stop(server, models, grace))
        if self._address.path is None:
            # Port 0 became a port that was free.
            self._address = replace(self._address, port=listener.getsockname()[1])
        loading = asyncio.ensure_future(self._load(models, server))
        try:
            await server.serve(sockets=[listener])
        finally:
            loading.cancel()
            await models.aclose()
            await self._mcp.servers.aclose()
            await asyncio.to_thread(self._end_traces)
        return self._status()

    def _models(self) -> ModelManager:
        return ModelManager(
            self._catalog,
            self._loader.load,
            # One model alone is fetched as it is loaded: nobody is served meanwhile.
            fetch=self._loader.fetch if len(self._catalog) > 1 else None,
            queue_size=self._args.queue_size,
            observer=self._operations.metrics,
        )

    def _status(self) -> int:
        if self._failure is None:
            return 0
        if isinstance(self._failure, CandleVllmError | UsageError | OSError):
            raise self._failure
        raise RuntimeError("loading the model failed") from self._failure

    def _stop(self, server: Listening, models: ModelManager, grace: float) -> None:
        if server.should_exit:
            server.force_exit = True
            return
        logger.info("stopping: no new requests; running answers have %g seconds", grace)
        server.should_exit = True
        asyncio.get_running_loop().call_later(grace, self._end_answers, models)

    def _end_answers(self, models: ModelManager) -> None:
        """Close the models, which ends every stream with an error event and tells those who wait."""
        self._ending = asyncio.ensure_future(models.aclose())

    async def _load(self, models: ModelManager, server: Listening) -> None:
        began = time.monotonic()
        first = self._catalog.default
        logger.info("listening on %s, loading %s", self._address.url, first.config.model_path)
        warning = exposure(self._boundary, self._address)
        if warning is not None:
            logger.warning("%s", warning)
        # What is there now stays, unlike models: collecting garbage need not look at it again, which takes 50 ms.
        gc.collect()
        gc.freeze()
        try:
            # The bars are this task's, so that they end with it however long the thread takes.
            with loading_bars(str(first.config.model_path)) as bars:
                self._loader.progress = both(bars, self._web.progress)
                model = await models.activate()
        except ModelLoadError as error:
            if len(self._catalog) == 1:
                self._failure = error.__cause__ or error
                # Those who wait are told before the server goes.
                server.should_exit = True
                return
        else:
            print(f"candle-vllm\n{summary(model, began, first.defaults)}", file=sys.stderr)
        finally:
            self._loader.progress = self._web.progress
        others = [entry.name for entry in self._catalog if entry is not first]
        if others:
            print(f"  {'also':<11} {', '.join(others)}", file=sys.stderr)
        if len(self._mcp.servers):
            names = ", ".join(client.server.name for client in self._mcp.servers)
            print(f"  {'MCP servers':<11} {names}", file=sys.stderr)
        if self._args.ui_server:
            print(f"  {'web page':<11} {self._address.url}/", file=sys.stderr)
        print(f"  {'serving':<11} {self._address.url}/v1", file=sys.stderr, flush=True)
