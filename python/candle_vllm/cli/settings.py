"""What the flags mean: engine settings, sampling defaults, names; or why a flag is refused.

No flag is taken and ignored. Must not know of argparse's declarations or of servers.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candle_vllm.cli.terminal import readable

if TYPE_CHECKING:
    from candle_vllm.config import EngineConfig
    from candle_vllm.errors import ConfigError
    from candle_vllm.models import Notation, SamplingDefaults

DEFAULT_MODEL = "smollm2"
_MB = 1024 * 1024


class UsageError(ValueError):
    """Flags that cannot be honoured; the message says which and why. Exit status 2."""


# Flags that nothing here can honour yet, with what to do instead. They are refused whenever they are given.
_REFUSED = {
    "yarn_scaling_factor": "set rope_scaling in the model's config.json instead",
    "kv_fraction": "it divides a GPU's memory, and this build has no GPU engine; use --mem",
    "mamba_fraction": "models with Mamba layers are not supported",
    "prefix_cache_max_tokens": "the prefix cache uses the KV blocks that are free; size them with --mem",
    "record_conversation": "the server keeps no conversations; clients send the messages with each request",
    "master_addr": "serving over several machines is not available",
    "master_port": "serving over several machines is not available",
}

_NOT_NEGATIVE = (
    "queue_size",
    "request_timeout",
    "shutdown_timeout",
    "max_waiting",
    "max_waiting_tokens",
    "max_stored_responses",
    "max_stored_bytes",
)


def refuse_flags(args: argparse.Namespace) -> None:
    """Raise :class:`UsageError` for the first flag that cannot be honoured."""
    for name, reason in _REFUSED.items():
        value = getattr(args, name, None)
        # By identity: 0 is a value too.
        if value is not None and value is not False:
            raise UsageError(f"--{name.replace('_', '-')}: {reason}")
    nodes, rank, holding = (getattr(args, name, None) for name in ("num_nodes", "node_rank", "holding_time"))
    if nodes not in (None, 1):
        raise UsageError(f"--num-nodes {nodes}: serving over several machines is not available")
    if rank not in (None, 0):
        raise UsageError(f"--node-rank {rank}: there is one machine, of rank 0")
    if holding not in (None, 0):
        raise UsageError(
            f"--holding-time {holding}: requests join the running batch at every step, so none is held back; "
            "leave it out"
        )
    for name in _NOT_NEGATIVE:
        if getattr(args, name, 0) < 0:
            raise UsageError(f"--{name.replace('_', '-')}: must not be negative")


def engine_config(args: argparse.Namespace) -> EngineConfig:
    """The engine's settings. Raises :class:`UsageError` naming the flag that is wrong."""
    from candle_vllm.config import EngineConfig
    from candle_vllm.errors import ConfigError

    model, weight_file = model_and_file(args)
    chunk = args.prefill_chunk_size
    fields: dict[str, Any] = {
        "model_path": model,
        "weight_file": weight_file,
        "revision": args.revision,
        "hf_token": hf_token(args.hf_token),
        "hf_token_path": args.hf_token_path,
        "device": _device(args),
        "dtype": args.dtype,
        "activations": args.activations,
        "isq": args.isq,
        "max_batch_size": args.max_num_seqs,
        "max_sequence_length": args.max_model_len,
        "kv_cache_memory": _kv_memory(args),
        "kv_cache_dtype": _kv_dtype(args),
        "enable_chunked_prefill": chunk != 0,
        "enable_prefix_cache": not args.disable_prefix_cache,
        "speculation": args.speculation,
        "threads": args.threads,
        "cpu_affinity": args.cpu_affinity,
        "enable_cuda_graph": False if args.disable_cuda_graph else None,
        "generation_config": getattr(args, "generation_config", "auto"),
        "chat_template": args.chat_template,
    }
    if chunk:
        fields["prefill_chunk_size"] = chunk
    try:
        config = EngineConfig(**fields)
    except ConfigError as error:
        raise UsageError(in_flags(error)) from error
    if args.chat_template is not None:
        _check_template(args.chat_template)
    return config


def _check_template(file: str) -> None:
    """Read and compile it before a model is loaded for minutes."""
    from candle_vllm.chat import ChatTemplateError, ChatTemplates

    try:
        ChatTemplates(Path(file).read_text(encoding="utf-8")).choose()
    except (OSError, UnicodeDecodeError, ChatTemplateError) as error:
        raise UsageError(f"--chat-template {file}: {error}") from error


def sampling_defaults(args: argparse.Namespace) -> SamplingDefaults:
    """What requests get that leave a sampling field out. Raises :class:`UsageError` for values out of range."""
    from candle_vllm.errors import ConfigError
    from candle_vllm.models import SamplingDefaults
    from candle_vllm.params import GenerationParams

    given = {name: getattr(args, name) for name in SamplingDefaults.__slots__}
    if given["top_k"] == -1:
        given["top_k"] = 0
    defaults = SamplingDefaults(**given)
    try:
        GenerationParams(**defaults.named())
    except ConfigError as error:
        raise UsageError(in_flags(error)) from error
    return defaults


def notation(args: argparse.Namespace) -> Notation:
    """How the model writes calls and thinking, where flags say it. Raises :class:`UsageError` for unknown names."""
    from candle_vllm.errors import ConfigError
    from candle_vllm.models import Notation

    found: dict[str, Any] = {"trust_special_tokens": args.trust_special_tokens}
    for flag, field in (("enforce_parser", "tool_format"), ("reasoning_parser", "reasoning")):
        found[field] = getattr(args, flag)
        try:
            Notation(**{field: found[field]})
        except ConfigError as error:
            raise UsageError(f"--{flag.replace('_', '-')}: {error}") from error
    return Notation(**found)


def served_names(args: argparse.Namespace) -> list[str]:
    """The names under which requests may ask for the model: what was given, and its short form."""
    if getattr(args, "served_model_name", None):
        if "" in args.served_model_name:
            raise UsageError("--served-model-name: a name has at least one character")
        return [readable(name) for name in dict.fromkeys(args.served_model_name)]
    given = _named(args) or args.weight_path or args.weight_file or DEFAULT_MODEL
    names = [readable(given)]
    path = Path(given)
    if path.exists():
        names.insert(0, readable(path.stem if path.suffix == ".gguf" else path.resolve().name))
    return list(dict.fromkeys(names))


def _named(args: argparse.Namespace) -> str | None:
    """The model by its name: the first word, or --m."""
    word: str | None = getattr(args, "named_model", None)
    if word is not None and args.model is not None and word != args.model:
        raise UsageError(f"{word} and --m {args.model} name different models; give one")
    return args.model if word is None else word


def model_and_file(args: argparse.Namespace) -> tuple[str, str | None]:
    """The model's place and the file within it. A folder wins over an id, which then only names the model."""
    named = _named(args)
    if args.weight_path is not None:
        if not Path(args.weight_path).is_dir():
            raise UsageError(f"--w {args.weight_path}: there is no such folder")
        return args.weight_path, args.weight_file
    if named is not None:
        return named, args.weight_file
    if args.weight_file is not None:
        if not Path(args.weight_file).is_file():
            raise UsageError(
                f"--f {args.weight_file}: there is no such file; to take it from a repository or a folder name that "
                "with --m or --w"
            )
        return args.weight_file, None
    return DEFAULT_MODEL, None


def hf_token(given: str | None) -> str | None:
    """The token: the flag names the environment variable that holds it, or is the token."""
    if given is None:
        return None
    if given in os.environ:
        return os.environ[given].strip() or None
    if given.startswith("hf_"):
        return given
    raise UsageError("--hf-token: there is no environment variable of that name, and a token begins with hf_")


def _device(args: argparse.Namespace) -> str:
    named = [
        flag
        for flag, value in (("--cpu", args.cpu or None), ("--device", args.device), ("--d", args.device_ids))
        if value is not None
    ]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} each name a device; give one")
    if args.cpu:
        return "cpu"
    if args.device_ids is None:
        return "auto" if args.device is None else str(args.device)
    ids = [part.strip() for part in args.device_ids.split(",") if part.strip()]
    if not ids or not all(part.isascii() and part.isdigit() for part in ids):
        raise UsageError(f"--d {args.device_ids}: give numbers of GPUs, as in 0 or 0,1")
    if len(ids) > 1:
        raise UsageError(f"--d {args.device_ids}: a model runs on one device here; give one number")
    return f"cuda:{ids[0]}"


def _kv_dtype(args: argparse.Namespace) -> str:
    """How keys and values are kept. The earlier `--fp8-kvcache` names one of the types."""
    if not args.fp8_kvcache:
        return str(args.kvcache_dtype)
    if args.kvcache_dtype not in ("auto", "fp8", "fp8_e4m3"):
        raise UsageError(f"--fp8-kvcache and --kvcache-dtype {args.kvcache_dtype} name two types; give one")
    return "fp8"


def _kv_memory(args: argparse.Namespace) -> int | None:
    """Bytes of the KV cache. It lies in the CPU's memory here, so both of the earlier flags name it."""
    if args.mem is not None and args.kvcache_mem_cpu is not None and args.mem != args.kvcache_mem_cpu:
        raise UsageError("--mem and --kvcache-mem-cpu name the same memory on a CPU; give one")
    flag, megabytes = ("--mem", args.mem) if args.mem is not None else ("--kvcache-mem-cpu", args.kvcache_mem_cpu)
    if megabytes is None:
        return None
    if megabytes < 1:
        raise UsageError(f"{flag} {megabytes}: must be at least 1 MB")
    return int(megabytes) * _MB


_FLAG_OF = {
    "model_path": "--m",
    "max_batch_size": "--max-num-seqs",
    "max_sequence_length": "--max-model-len",
    "kv_cache_memory": "--mem",
    "kv_cache_dtype": "--kvcache-dtype",
    "hf_token_path": "--hf-token-path",
    "prefill_chunk_size": "--prefill-chunk-size",
    "cpu_affinity": "--cpu-affinity",
}


def in_flags(error: ConfigError) -> str:
    """What a refusal says, with the flag's name for the field's."""
    return error.named(_FLAG_OF.get(error.field or "", f"--{(error.field or '').replace('_', '-')}"))
