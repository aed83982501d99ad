"""The table of tool-call formats. A new one is a file in `formats/`, a line here and a case file in the tests."""

from __future__ import annotations

import difflib

from candle_vllm.errors import ConfigError

from .format import Format
from .formats.cohere import Cohere
from .formats.deepseek_v3 import DeepseekV3
from .formats.deepseek_v31 import DeepseekV31
from .formats.deepseek_v32 import DeepseekV32
from .formats.functiongemma import FunctionGemma
from .formats.gemma4 import Gemma4
from .formats.generic import Generic
from .formats.glm45 import Glm45
from .formats.glm47 import Glm47
from .formats.granite import Granite
from .formats.granite4 import Granite4
from .formats.hermes import Hermes
from .formats.hunyuan_a13b import HunyuanA13b
from .formats.kimi_k2 import KimiK2
from .formats.lfm2 import Lfm2
from .formats.llama3_json import Llama3Json
from .formats.llama4_pythonic import Llama4Pythonic
from .formats.minimax_m2 import MinimaxM2
from .formats.mistral import Mistral, MistralList
from .formats.olmo3 import Olmo3
from .formats.openai import Harmony
from .formats.passthrough import Passthrough
from .formats.phi4_mini_json import Phi4MiniJson
from .formats.pythonic import Pythonic
from .formats.qwen3_coder import Qwen3Coder
from .formats.seed_oss import SeedOss
from .formats.xlam import Xlam

__all__ = ["FORMATS", "detect", "find"]

# In the order in which templates are tried: marks that one family alone has come first.
FORMATS: tuple[Format, ...] = (
    DeepseekV32(),
    DeepseekV3(),
    DeepseekV31(),
    KimiK2(),
    MinimaxM2(),
    SeedOss(),
    Gemma4(),
    FunctionGemma(),
    Cohere(),
    Lfm2(),
    Mistral(),
    MistralList(),
    Harmony(),
    Phi4MiniJson(),
    Granite4(),
    Granite(),
    Glm47(),
    Glm45(),
    Qwen3Coder(),
    HunyuanA13b(),
    Olmo3(),
    Llama4Pythonic(),
    Xlam(),
    Pythonic(),
    Hermes(),
    Llama3Json(),
    Generic(),
    Passthrough(),
)

_BY_NAME = {name: form for form in FORMATS for name in form.names}


def find(name: str) -> Format:
    """The format of this name, whatever its case and dashes. Raises :class:`ConfigError` for a name that none has."""
    form = _BY_NAME.get(name.lower().replace("-", "_"))
    if form is not None:
        return form
    near = difflib.get_close_matches(name, _BY_NAME, 1, 0.4)
    hint = f" The nearest is {near[0]!r}." if near else ""
    raise ConfigError(f"unknown tool-call format {name!r}.{hint} Known are: {', '.join(sorted(_BY_NAME))}")


def detect(template: str) -> Format | None:
    """The format that a chat template was written for; None when its text shows none."""
    text = template.replace('\\"', '"')  # as it stands in a string of the template
    return next((form for form in FORMATS if form.recognises(text)), None)
