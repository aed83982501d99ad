"""The native engine. Private: `candle_vllm.engine` is its Python face, and the only module that imports it."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Self, TypeAlias, final

__all__ = ["Engine", "Event", "Mailbox", "__version__", "check_device", "inspect", "quantize"]

__version__: str

_Logprob: TypeAlias = tuple[int, float, list[tuple[int, float]]]

def check_device(device: str, /) -> None:
    """Raise DeviceError unless this machine and this build have the device; the message says what is there."""

def inspect(config: Any, path: str, /) -> dict[str, Any]:
    """What the model at `path` is and would take with the settings of `config`; the fields of `ModelReport`."""

def quantize(
    path: str | PathLike[str],
    out: str | PathLike[str],
    kind: str,
    threads: int | None,
    progress: Callable[[str, int, int], object] | None,
) -> int:
    """Write the model at `path` to `out` as a GGUF file of type `kind`; the size in bytes."""

@final
class Engine:
    """A loaded model with its engine thread."""

    def __new__(cls, config: Any, path: str, progress: Callable[[str, int, int], object] | None) -> Self:
        """Load the model at `path` with the settings of `config`, an `EngineConfig`."""

    def submit(
        self,
        prompt: str | Sequence[int],
        params: Any,
        mailbox: Mailbox,
        cache_salt: str | None,
        priority: int,
        skip_special_tokens: bool,
    ) -> tuple[int, list[int]]:
        """Submit a request with `params`, a `GenerationParams`; its number and the prompt's token ids."""

    def check_form(self, params: Any) -> None:
        """Compile the form that `params`, a `GenerationParams`, ask of an answer."""

    def cached_prefix(self, tokens: Sequence[int], salt: str | None) -> tuple[int, int | None]:
        """What of a prompt the prefix cache holds; the fields of `CachedPrefix`."""

    def abort(self, request: int) -> None:
        """Cancel a request, wherever it is; nothing when it has ended."""

    def step(self) -> tuple[int, int, int, int, int]:
        """Compute one step; the fields of `StepReport`."""

    def stats(self) -> dict[str, Any]:
        """The fields of `EngineStats`."""

    def model_info(self) -> dict[str, Any]:
        """The fields of `ModelInfo` but name and path."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""

    def encode_parts(self, parts: Sequence[str]) -> list[int]:
        """Token ids of a text in parts; in every other one special tokens spelt out are plain text."""

    def special_texts(self) -> list[str]:
        """Texts of all special tokens."""

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        """Text of token ids."""

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token."""

    def chat_templates(self) -> dict[str, str]:
        """Chat templates by name."""

    def special_tokens(self) -> dict[str, str]:
        """Special tokens' texts by the names that templates use."""

    def close(self) -> None:
        """End the engine thread and give the memory back."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    @property
    def background(self) -> bool:
        """Whether the engine runs by itself."""

@final
class Mailbox:
    """Where events of requests arrive."""

    def __new__(cls) -> Self:
        """An empty mailbox."""

    def poll(self, timeout: float) -> list[Event]:
        """Wait up to `timeout` seconds for events and take all there are."""

    def try_poll(self) -> list[Event]:
        """Take what is there."""

    def fileno(self) -> int:
        """A descriptor that is readable while events wait; never read from it. It is made by the first call."""

    def rest(self, resting: bool) -> None:
        """Whether the descriptor keeps still until the first or the last event of a request comes."""

@final
class Event:
    """What happened to one request in one step."""

    @property
    def request(self) -> int:
        """The request's number."""

    @property
    def tokens(self) -> list[int]:
        """Tokens generated in this step."""

    @property
    def text(self) -> str:
        """Text that became certain."""

    @property
    def logprobs(self) -> list[_Logprob]:
        """One entry a token, when asked for."""

    @property
    def prompt_logprobs(self) -> list[_Logprob | None] | None:
        """One entry a prompt token, with one event, when asked for."""

    @property
    def finish_reason(self) -> str | None:
        """Set on the last event."""

    @property
    def stop_reason(self) -> str | int | None:
        """With `finish_reason`: what hit, or the error's message."""

    @property
    def stats(self) -> tuple[int, int, int, float, float, float] | None:
        """With `finish_reason`: the fields of `GenerationStats`."""
