"""models.yaml: where it is, what may stand in it, and the catalogue that it describes.

Whatever is wrong raises ConfigError that names the file, the line and what was expected. Alone imports yaml.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from candle_vllm import checks
from candle_vllm.config import EngineConfig
from candle_vllm.errors import ConfigError
from candle_vllm.models.catalog import Catalog, CatalogEntry
from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.models.entry_params import PARAMS, EntryParams

if TYPE_CHECKING:
    import yaml

__all__ = ["ENVIRONMENT", "find_catalog", "read_catalog"]

ENVIRONMENT = "CANDLE_VLLM_MODELS_CONFIG"
"""Environment variable that names the file."""
_NAMES = ("models.yaml", "models.yml")
_ROOT_KEYS = ("models", "idle_unload_secs")
_ENTRY_KEYS = ("name", "hf_id", "local_path", "weight_file", "params", "notes")
_LONGEST_NAME = 200

ResultT = TypeVar("ResultT")


def find_catalog(folder: str | os.PathLike[str] = ".") -> Path | None:
    """The file that `CANDLE_VLLM_MODELS_CONFIG` names, or `models.yaml` or `models.yml` in the folder; None without.

    Raises ConfigError when the named file is not there, or both names are.
    """
    if named := os.environ.get(ENVIRONMENT):
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"{ENVIRONMENT} names {named!r}, but there is no such file")
        return path
    found = [path for name in _NAMES if (path := Path(folder) / name).is_file()]
    if len(found) > 1:
        raise ConfigError(f"both {found[0]} and {found[1]} are there; keep one, or name one with {ENVIRONMENT}")
    return found[0] if found else None


def read_catalog(
    path: str | os.PathLike[str], *, base: EngineConfig | None = None, defaults: SamplingDefaults | None = None
) -> Catalog:
    """The catalogue of this file. `base` and `defaults` hold for what an entry's params leave out.

    Local paths are relative to the file's folder.
    """
    return _Reader(Path(path), base or EngineConfig(), defaults or SamplingDefaults()).catalog()


class _Reader:
    """One reading of one file."""

    def __init__(self, path: Path, base: EngineConfig, defaults: SamplingDefaults) -> None:
        self._path = path
        self._base = base
        self._defaults = defaults

    def catalog(self) -> Catalog:
        import yaml

        try:
            text = self._path.read_text(encoding="utf-8")
            self._created = int(self._path.stat().st_mtime)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path}: cannot be read: {error}") from error
        self._loader = yaml.SafeLoader(text)
        try:
            root = self._loader.get_single_node()
            if root is None:
                raise ConfigError(f"{self._path}: it is empty; it must hold a list of models under 'models:'")
            return self._catalog(root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = "" if mark is None else f", line {mark.line + 1}"
            raise ConfigError(f"{self._path}{where}: {error.problem or error.context}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"{self._path}: {error}") from error
        finally:
            self._loader.dispose()

    def _catalog(self, root: yaml.Node) -> Catalog:
        fields = self._mapping(root, "the file", _ROOT_KEYS)
        if "models" not in fields:
            self._wrong(root, "there must be a list of models under 'models:'")
        listed = self._sequence(fields["models"], "models")
        if not listed:
            self._wrong(fields["models"], "models must hold at least one model; got none")
        seen: dict[str, int] = {}
        entries = []
        for node in listed:
            entry = self._entry(node)
            if entry.name in seen:
                self._wrong(node, f"the name {entry.name!r} is taken by the model of line {seen[entry.name]}")
            seen[entry.name] = _line(node)
            entries.append(entry)
        return Catalog(entries, idle_unload_secs=self._idle(fields.get("idle_unload_secs")))

    def _idle(self, node: yaml.Node | None) -> float | None:
        if node is None or (value := self._value(node)) is None:
            return None
        return self._checked(
            node, lambda: checks.number("idle_unload_secs", value, 0, 10 * 365 * 86_400, open_low=True)
        )

    def _entry(self, node: yaml.Node) -> CatalogEntry:
        fields = self._mapping(node, "a model", _ENTRY_KEYS)
        if "name" not in fields:
            self._wrong(node, "a model must have a name")
        name = self._text(fields["name"], "name")
        if len(name) > _LONGEST_NAME or not name.isprintable():
            self._wrong(fields["name"], f"name must be at most {_LONGEST_NAME} printable characters; got {name[:60]!r}")
        if ("hf_id" in fields) == ("local_path" in fields):
            self._wrong(node, f"the model {name!r} must have an hf_id or a local_path, and not both")
        ids: tuple[str, ...] = ()
        if "hf_id" in fields:
            source = self._text(fields["hf_id"], "hf_id")
            ids = (source,)
        else:
            source = str(self._path.parent / Path(self._text(fields["local_path"], "local_path")).expanduser())
        config = dataclasses.replace(self._base, model_path=source, weight_file=None, revision=None, chat_template=None)
        if "weight_file" in fields:
            config = dataclasses.replace(config, weight_file=self._text(fields["weight_file"], "weight_file"))
        params = EntryParams(config)
        for key, value in self._mapping(fields.get("params"), "params", tuple(PARAMS)).items():
            self._checked(value, partial(params.put, key, self._value(value)))
        return self._finished(name, ids, params, fields)

    def _finished(
        self, name: str, ids: tuple[str, ...], params: EntryParams, fields: Mapping[str, yaml.Node]
    ) -> CatalogEntry:
        return CatalogEntry(
            name=name,
            ids=ids,
            config=params.config,
            defaults=SamplingDefaults(**params.sampling).over(self._defaults),
            block_size=params.block_size,
            notes=self._text(fields["notes"], "notes") if "notes" in fields else None,
            created=self._created,
        )

    # Nodes to values, each with its line at hand.

    def _mapping(self, node: yaml.Node | None, what: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
        import yaml

        if node is None or (isinstance(node, yaml.ScalarNode) and self._value(node) is None):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, f"{what} must be a mapping of names to values")
        own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        self._loader.flatten_mapping(node)
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                self._wrong(key, f"{what} has no {name!r}; {hint}")
            if own.count(str(name)) > 1:
                self._wrong(key, f"{name!r} is given twice")
            fields[str(name)] = value
        return fields

    def _sequence(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        import yaml

        if not isinstance(node, yaml.SequenceNode):
            self._wrong(node, f"{what} must be a list")
        return list(node.value)

    def _text(self, node: yaml.Node, what: str) -> str:
        value = self._value(node)
        if not isinstance(value, str) or not value.strip():
            hint = "; in quotes it would be a text" if isinstance(value, bool | int | float) else ""
            self._wrong(node, f"{what} must be a text that is not empty; got {value!r}{hint}")
        return value

    def _value(self, node: yaml.Node) -> Any:
        return self._loader.construct_document(node)

    def _checked(self, node: yaml.Node, make: Callable[[], ResultT]) -> ResultT:
        """What `make` gives; its ConfigError with this node's line."""
        try:
            return make()
        except ConfigError as error:
            self._wrong(node, str(error), error)

    def _wrong(self, node: yaml.Node, problem: str, cause: Exception | None = None) -> NoReturn:
        raise ConfigError(f"{self._path}, line {_line(node)}: {problem}") from cause


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
