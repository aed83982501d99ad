"""Which name means which model."""

from __future__ import annotations

import pytest

from candle_vllm import EngineConfig
from candle_vllm.errors import ConfigError, ModelNotFoundError
from candle_vllm.models import Catalog, CatalogEntry


def entry(name: str, *also: str) -> CatalogEntry:
    """A model of this name."""
    return CatalogEntry(name=name, also=also, config=EngineConfig())


def test_names_and_other_names() -> None:
    catalog = Catalog([entry("a", "org/a"), entry("b", "org/b", "a"), entry("c", "org/b")])
    assert catalog.default.name == "a"
    assert [one.name for one in catalog] == ["a", "b", "c"]
    # A main name means its own model, whoever else goes by it; what two go by means neither.
    assert catalog.find("a").name == "a"
    assert catalog.find("org/a").name == "a"
    with pytest.raises(ModelNotFoundError, match=r"'org/b' does not exist\. Served here: a, b, c\."):
        catalog.find("org/b")


def test_what_is_no_catalogue() -> None:
    with pytest.raises(ConfigError, match="at least one model"):
        Catalog([])
    with pytest.raises(ConfigError, match="'a' is given twice"):
        Catalog([entry("a"), entry("a")])
