"""Which models a server serves: the one that the flags name, those of models.yaml, or both.

Must not know how they are loaded or take turns.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from candle_vllm.cli.settings import UsageError, engine_config, sampling_defaults, served_names

if TYPE_CHECKING:
    from candle_vllm.models import Catalog, CatalogEntry

__all__ = ["catalog_of"]


def catalog_of(args: argparse.Namespace) -> Catalog:
    """The catalogue; its first entry is the model to begin with. Raises UsageError and ConfigError.

    Without a file it is the model that the flags name. With one, flags may name a model of the file or a further one;
    without a name the first of the file is begun with. What the file says of a model goes before the flags.
    """
    from candle_vllm.models import Catalog, CatalogEntry, find_catalog, read_catalog

    config, defaults = engine_config(args), sampling_defaults(args)
    path = find_catalog()
    listed = None if path is None else read_catalog(path, base=config, defaults=defaults)
    named = getattr(args, "named_model", None) or args.model
    if listed is not None:
        if named is None and args.weight_path is None and args.weight_file is None:
            if args.served_model_name:
                raise UsageError(
                    f"--served-model-name: {path} names its models; name one of them with --m to rename it"
                )
            return listed
        if (chosen := _named(listed, named)) is not None:
            first = _renamed(chosen, args.served_model_name)
            others = [entry for entry in listed if entry is not chosen]
            return Catalog([first, *others], idle_unload_secs=listed.idle_unload_secs)
    main, *also = served_names(args)
    own = CatalogEntry(name=main, also=tuple(also), config=config, defaults=defaults, block_size=args.block_size)
    if listed is None:
        return Catalog([own])
    return Catalog([own, *listed], idle_unload_secs=listed.idle_unload_secs)


def _named(listed: Catalog, name: str | None) -> CatalogEntry | None:
    return next((entry for entry in listed if entry.name == name), None)


def _renamed(entry: CatalogEntry, names: list[str] | None) -> CatalogEntry:
    if not names:
        return entry
    main, *also = dict.fromkeys([*names, entry.name, *entry.also])
    return replace(entry, name=main, also=tuple(also))
