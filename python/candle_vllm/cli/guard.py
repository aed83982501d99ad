"""Who may use the server and how much of it, in flags: keys, hosts, origins, limits, logs, traces.

Must not know of models.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from candle_vllm.cli.address import Address
from candle_vllm.cli.settings import UsageError

if TYPE_CHECKING:
    from candle_vllm.server.auth import ApiKey
    from candle_vllm.server.boundary import BoundarySettings
    from candle_vllm.server.operations import Operations

__all__ = ["KEY_VARIABLE", "add_guard", "boundary_settings", "exposure", "operations_of"]

KEY_VARIABLE = "CANDLE_VLLM_API_KEY"
"""Environment variable that may hold API keys, with commas between them."""

_MB = 1024 * 1024


def add_guard(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("who may use the server")
    group.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help=f"key that requests need, or 'NAME KEY'; may be given several times; also {KEY_VARIABLE}",
    )
    group.add_argument("--api-key-file", metavar="FILE", help="file with a KEY or NAME KEY a line")
    group.add_argument(
        "--allowed-hosts",
        action="append",
        metavar="NAME",
        help="host that requests may name, beside this machine's where the server is bound to localhost; * is any",
    )
    group.add_argument(
        "--allowed-origins",
        action="append",
        metavar="ORIGIN",
        help="site whose pages may use the server; * is any (none)",
    )
    group.add_argument("--max-body-size", type=float, default=8.0, metavar="MB", help="of a request at most (8)")
    group.add_argument(
        "--max-concurrent-requests",
        type=int,
        default=4096,
        metavar="N",
        help="under way at once, waiting included (4096)",
    )
    group.add_argument("--max-requests-per-key", type=int, metavar="N", help="the same of one key, or address (any)")
    group.add_argument("--rate-limit", type=float, metavar="N", help="requests a minute of one key, or address (any)")
    group = parser.add_argument_group("what the server tells")
    group.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="least that is logged (info)"
    )
    group.add_argument("--log-format", choices=("text", "json"), default="text", help="of a line (text)")
    group.add_argument("--log-prompts", action="store_true", help="log what requests hold, not only their figures")
    group.add_argument("--otlp-traces-endpoint", metavar="URL", help="collector of OpenTelemetry traces")


def boundary_settings(args: argparse.Namespace, address: Address) -> BoundarySettings:
    """The boundary that these flags ask for. Raises UsageError naming the flag that is wrong."""
    from candle_vllm.server.boundary import BoundarySettings
    from candle_vllm.server.limits import Limits

    return BoundarySettings(
        api_keys=_keys(args),
        allowed_hosts=_hosts(args, address),
        allowed_origins=tuple(_listed(args.allowed_origins or ())),
        limits=Limits(
            body_bytes=int(_above_zero(args, "max_body_size") * _MB),
            concurrency=int(_above_zero(args, "max_concurrent_requests")),
            caller_concurrency=_whole(_optional(args, "max_requests_per_key")),
            caller_rate=_optional(args, "rate_limit"),
        ),
        log_prompts=args.log_prompts,
    )


def _keys(args: argparse.Namespace) -> tuple[ApiKey, ...]:
    """All keys; whoever names a source of keys that holds none is told, rather than served without."""
    from candle_vllm.server.auth import parse_keys, read_key_file

    file, variable = args.api_key_file, os.environ.get(KEY_VARIABLE)
    entries = list(args.api_key or ())
    if variable is not None:
        entries += _named_keys(_listed([variable]), KEY_VARIABLE)
    try:
        if file is not None:
            entries += _named_keys(read_key_file(file), f"--api-key-file {file}")
        return parse_keys(entries)
    except OSError as error:
        raise UsageError(f"--api-key-file {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--api-key-file {file}: it is not UTF-8 text") from error
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"--api-key: {error}") from error


def _named_keys(entries: list[str], source: str) -> list[str]:
    if not entries:
        raise UsageError(f"{source}: there is no API key in it")
    return entries


def operations_of(args: argparse.Namespace) -> tuple[Operations, Callable[[], None]]:
    """What the server counts, and what sends the last of its traces at the end."""
    from candle_vllm.server.operations import Operations

    if args.otlp_traces_endpoint is None:
        return Operations(), lambda: None
    try:
        from candle_vllm.server.traces import exporting
    except ImportError as error:
        raise UsageError("--otlp-traces-endpoint: pip install 'candle-vllm[otel]' first") from error
    traces, end = exporting(args.otlp_traces_endpoint)
    return Operations(traces), end


def exposure(settings: BoundarySettings, address: Address) -> str | None:
    """What it means that anyone who reaches the server may use it; None where that is not so."""
    from candle_vllm.server.hosts import is_loopback

    if settings.api_keys or address.path is not None or is_loopback(address.host):
        return None
    reach = "every network of this machine" if address.host in ("0.0.0.0", "::") else address.host
    return (
        f"no API key is set and the server listens on {reach}: whoever reaches port {address.port} can use it, "
        "read its figures and keep it busy. Set --api-key, or --h 127.0.0.1 for this machine alone."
    )


def _hosts(args: argparse.Namespace, address: Address) -> tuple[str, ...]:
    """Beyond this machine a name cannot be rebound to anything that a page could not reach by itself."""
    from candle_vllm.server.hosts import LOOPBACK_HOSTS, is_loopback

    named = tuple(host.lower() for host in _listed(args.allowed_hosts or ()))
    if address.path is not None:
        return named or ("*",)
    if not is_loopback(address.host):
        return named or ("*",)
    own = f"[{address.host.strip('[]')}]" if ":" in address.host else address.host
    return (*LOOPBACK_HOSTS, own.lower(), *named)


def _listed(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _above_zero(args: argparse.Namespace, name: str) -> float:
    value = float(getattr(args, name))
    if not value > 0:
        raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be above 0")
    return value


def _optional(args: argparse.Namespace, name: str) -> float | None:
    return None if getattr(args, name) is None else _above_zero(args, name)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
