"""Which name means which model."""

from __future__ import annotations

import pytest

from candle_vllm import EngineConfig
from candle_vllm.errors import ConfigError, ModelNotFoundError
from candle_vllm.models import Catalog, CatalogEntry


def entry(name: str, *ids: str, also: tuple[str, ...] = ()) -> CatalogEntry:
    """A model of this name."""
    return CatalogEntry(name=name, also=also, ids=ids, config=EngineConfig())


def test_names_and_ids() -> None:
    catalog = Catalog([entry("a", "org/a"), entry("b", "org/b", "a", also=("bee",)), entry("c", "org/b", "org/c")])
    assert catalog.default.name == "a"
    assert [one.name for one in catalog] == ["a", "b", "c"]
    assert [catalog.find(name).name for name in ("a", "org/a", "b", "bee", "c", "org/c")] == [*"aabbcc"]
    # A name means its own model, whoever else goes by it; an id of two means neither.
    with pytest.raises(ModelNotFoundError, match=r"'org/b' does not exist\. Served here: a, b, c\."):
        catalog.find("org/b")


def test_what_is_no_catalogue() -> None:
    with pytest.raises(ConfigError, match="at least one model"):
        Catalog([])
    for second in (entry("a"), entry("b", also=("a",))):
        with pytest.raises(ConfigError, match="'a' is given twice"):
            Catalog([entry("a"), second])
