"""Models behind leases: `async with models.lease(name) as model`, whether one engine is there or many take turns.

Must not know of requests, of any API, or of HTTP.
"""

from candle_vllm.models.admission import Admission, Ticket
from candle_vllm.models.catalog import Catalog, CatalogEntry
from candle_vllm.models.catalog_file import find_catalog, read_catalog
from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.models.loaded import LoadedModel, Notation, Waiting
from candle_vllm.models.loading import EngineLoader
from candle_vllm.models.manager import ModelManager
from candle_vllm.models.observe import Observer, Unseen
from candle_vllm.models.provider import Models, OnStatus, Selection
from candle_vllm.models.single import SingleModel
from candle_vllm.models.status import ModelEntry, ModelState, ModelStatus, WaitPhase, WaitStatus
from candle_vllm.models.tokens import TokenTexts

__all__ = [
    "Admission",
    "Catalog",
    "CatalogEntry",
    "EngineLoader",
    "LoadedModel",
    "ModelEntry",
    "ModelManager",
    "ModelState",
    "ModelStatus",
    "Models",
    "Notation",
    "Observer",
    "OnStatus",
    "SamplingDefaults",
    "Selection",
    "SingleModel",
    "Ticket",
    "TokenTexts",
    "Unseen",
    "WaitPhase",
    "WaitStatus",
    "Waiting",
    "find_catalog",
    "read_catalog",
]
