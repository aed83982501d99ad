"""InferenceEngine: a loaded model and everything one asks of it.

Resolves the model's name, then speaks to the native engine; knows nothing of chats, tools or HTTP.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from candle_vllm import _native, checks
from candle_vllm.config import EngineConfig
from candle_vllm.engine import batch, place
from candle_vllm.engine.batch import Job, Prompt
from candle_vllm.engine.builder import EngineBuilder
from candle_vllm.engine.handle import RequestHandle
from candle_vllm.engine.inbox import Inbox, running_loop
from candle_vllm.engine.progress import prompts_bar
from candle_vllm.errors import RequestCancelledError, TokenizationError
from candle_vllm.params import GenerationParams
from candle_vllm.records import CachedPrefix, EngineStats, GenerationOutput, ModelInfo, StepReport

if TYPE_CHECKING:
    import asyncio

__all__ = ["InferenceEngine", "Prompt"]

Progress = Callable[[str, int, int], None]
Params = GenerationParams | Sequence[GenerationParams] | None
_LONG_TEXT = 16_384
"""Characters from which on an asynchronous call encodes in a thread, lest the loop stand still for milliseconds."""


class InferenceEngine:
    """A language model in this process, answering many requests at once.

    Any number of threads and asyncio loops may use one engine together. After a fork only the parent may.
    Close it with `close` or use it as a context (`with`); closing gives all its memory back.

    A prompt is text, which is encoded with the special tokens that the model's tokenizer adds by itself, or a list of
    token ids, taken as they are. In every method that generates:

    - `cache_salt`: computed prefixes are shared only between requests of the same salt;
    - `priority`: smaller runs first and is preempted last (default 0);
    - `skip_special_tokens`: whether special tokens are left out of the text (default True).

    Without parameters a prompt is sampled as `default_params()` says.
    """

    def __init__(self, config: EngineConfig | None = None, *, progress: Progress | None = None) -> None:
        """Fetch the model where needed, and load it.

        `progress(stage, done, total)` is called in this thread meanwhile; `total` 0 = not known. Raises ConfigError,
        DeviceError and ModelLoadError. Can be interrupted with Ctrl-C.
        """
        config = EngineConfig() if config is None else config
        if not isinstance(config, EngineConfig):
            checks.refuse("config", config, "an EngineConfig")
        self._own_template = _template(config.chat_template)
        self._path = place.fetch(config, progress)
        self._config = config
        self._native = _native.Engine(config, str(self._path), progress)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox] = weakref.WeakKeyDictionary()

    @staticmethod
    def builder() -> EngineBuilder:
        """Settings one call each, then `build()`."""
        return EngineBuilder()

    @property
    def config(self) -> EngineConfig:
        """The settings it was built with."""
        return self._config

    @cached_property
    def model_info(self) -> ModelInfo:
        """What was loaded and how it runs."""
        from candle_vllm import sources

        facts = self._native.model_info()
        advice = facts.pop("generation_config") or sources.recommended_sampling(self._path)
        return ModelInfo(
            name=place.name(self._config, self._path),
            path=str(self._path),
            generation_config={} if self._config.generation_config == "none" else advice,
            **facts,
        )

    def default_params(self, **changes: Any) -> GenerationParams:
        """What a prompt without parameters gets, with `changes`: the checkpoint's recommendation where it has one.

        Raises ConfigError for values out of range.
        """
        return GenerationParams(**{**self.model_info.generation_config, **changes})

    def stats(self) -> EngineStats:
        """Figures of this moment: sequences, KV blocks, counters."""
        return EngineStats(**self._native.stats())

    # Text and tokens.

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text, as the model's own tokenizer gives them.

        `add_special_tokens` adds those that the tokenizer puts around a prompt by itself (such as the
        beginning-of-sequence id); special tokens spelled out in the text are recognised either way. Raises
        TokenizationError for a text that UTF-8 cannot hold.
        """
        if not isinstance(text, str):
            checks.refuse("text", text, "a text")
        if not checks.encodable(text):
            raise TokenizationError(f"a text with halves of surrogate pairs has no tokens; got {checks.shown(text)}")
        return self._native.encode(text, add_special_tokens)

    def tokenize_parts(self, parts: Sequence[str]) -> list[int]:
        """Token ids of a text that is given in parts.

        In every other part, from the second on, special tokens spelled out are plain text, as what a user wrote should
        be. One part is encoded as by `tokenize`.
        """
        return self._native.encode_parts(list(parts))

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of all the special tokens of the tokenizer."""
        return tuple(self._native.special_texts())

    def detokenize(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; `skip_special_tokens=False` spells special tokens out."""
        return self._native.decode(batch.token_ids("tokens", tokens), skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text; they need not be whole characters. Special tokens: their name."""
        return self._native.token_bytes(checks.integer("token", token, 0, self.model_info.vocab_size - 1))

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """The model's chat templates (Jinja) by name; the main one is `default`. Empty when it has none.

        Where the settings name a file, its template is the only one.
        """
        return self._native.chat_templates() if self._own_template is None else {"default": self._own_template}

    @property
    def chat_template(self) -> str | None:
        """The model's main chat template (Jinja), if it has one."""
        return self.chat_templates.get("default")

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the special tokens that chat templates name: `bos_token`, `eos_token` and so on."""
        return self._native.special_tokens()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return self.model_info.eos_token_ids

    @property
    def bos_token_id(self) -> int | None:
        """Beginning-of-sequence id, if the tokenizer names one."""
        return self.model_info.bos_token_id

    # Generation.

    def check_form(self, params: GenerationParams) -> None:
        """Compile the form that these parameters ask of an answer, for up to a second; nothing where they ask for none.

        Raises ConfigError for one that cannot be enforced. A request with the same form finds it compiled, so that an
        event loop need not wait: call this in a thread before `add_request`.
        """
        self._native.check_form(params)

    def cached_prefix(self, tokens: Sequence[int], cache_salt: str | None = None) -> CachedPrefix:
        """What of a prompt the prefix cache holds now, for requests with this salt.

        Waits for the step that is being computed: call it in a thread beside an event loop. Raises GenerationError when
        the engine is closed or has failed.
        """
        return CachedPrefix(*self._native.cached_prefix(list(tokens), cache_salt))

    def add_request(
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> RequestHandle:
        """Submit one request and return at once with its handle.

        Raises ConfigError for a prompt or parameters that this model cannot run, QueueFullError when `max_queue`
        requests wait already, and GenerationError when the engine is closed or has failed.
        """
        inbox = self._inbox_here()
        return self._submit(inbox, prompt, params, cache_salt, priority, skip_special_tokens)

    def stream(
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> RequestHandle:
        """Submit one request and iterate over its chunks with a plain `for`. Raises as `add_request`."""
        return self._submit(self._new_inbox(), prompt, params, cache_salt, priority, skip_special_tokens)

    def generate_stream(
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> RequestHandle:
        """Submit one request and iterate over its chunks with `async for`. Raises as `add_request`.

        Leaving the loop early frees the request when the iterator is dropped; `async with` frees it there and then.
        """
        return self.add_request(
            prompt, params, cache_salt=cache_salt, priority=priority, skip_special_tokens=skip_special_tokens
        )

    @overload  # a str is a Sequence[str] too; the first signature that fits counts
    def generate(  # type: ignore[overload-overlap]
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        progress: bool = False,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> GenerationOutput: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        params: Params = None,
        *,
        progress: bool = False,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> list[GenerationOutput]: ...

    def generate(
        self,
        prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
        params: Params = None,
        *,
        progress: bool = False,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> GenerationOutput | list[GenerationOutput]:
        """Answer a prompt, or a list of prompts (answers in the same order), and wait for the end.

        A list takes one set of parameters or a list as long; `progress` shows a bar on standard error. A request that
        fails while it runs has `finish_reason` `error`, and the others go on; one that is refused raises as in
        `add_request`, and none goes on. The GIL is released while waiting; Ctrl-C cancels.
        """
        single, work = _work(prompt, self._params(params))
        inbox = self._new_inbox()
        with prompts_bar(len(work), progress) as advance:
            outputs = batch.run(
                work,
                lambda job: self._submit(inbox, job.prompt, job.params, cache_salt, priority, skip_special_tokens),
                advance,
            )
        return outputs[0] if single else outputs

    @overload
    async def generate_async(  # type: ignore[overload-overlap]
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        progress: bool = False,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> GenerationOutput: ...

    @overload
    async def generate_async(
        self,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        params: Params = None,
        *,
        progress: bool = False,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> list[GenerationOutput]: ...

    async def generate_async(
        self,
        prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
        params: Params = None,
        *,
        progress: bool = False,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> GenerationOutput | list[GenerationOutput]:
        """As `generate`, in a task. Cancelling the task frees the requests at once."""
        single, work = _work(prompt, self._params(params))
        work = [await self._encoded(job) for job in work]
        inbox = self._inbox_here()
        with prompts_bar(len(work), progress) as advance:
            outputs = await batch.run_async(
                work,
                lambda job: self._submit(inbox, job.prompt, job.params, cache_salt, priority, skip_special_tokens),
                advance,
            )
        return outputs[0] if single else outputs

    def cancel_request(self, request: RequestHandle | int) -> None:
        """Free a request's memory now, queued or running; its readers get `finish_reason` `cancelled`.

        Does nothing when it has ended or never was.
        """
        number = request.id if isinstance(request, RequestHandle) else checks.integer("request", request, 0)
        self._native.abort(number)

    def step(self) -> StepReport:
        """Compute one step of an engine built with `background=False`; raises ConfigError on any other."""
        if self._config.background:
            checks.refuse("background", True, "False to step this engine, which runs by itself: background=False")
        return StepReport(*self._native.step())

    # End of life.

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._native.closed

    def close(self) -> None:
        """Cancel all requests, end the engine's threads and give its memory back. Any number of calls.

        In a forked child it does nothing: the engine is its parent's.
        """
        if os.getpid() != self._process:
            return
        self._native.close()
        with self._lock:
            inboxes = list(self._inboxes)
        for inbox in inboxes:
            inbox.fail_all(RequestCancelledError("the engine was closed before the answer was complete"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def __repr__(self) -> str:
        return f"<InferenceEngine {place.name(self._config, self._path)}{' (closed)' if self.closed else ''}>"

    def _submit(
        self,
        inbox: Inbox,
        prompt: Prompt,
        params: GenerationParams | None,
        cache_salt: str | None,
        priority: int,
        skip_special_tokens: bool,
    ) -> RequestHandle:
        params = batch.parameters(self._params(params))
        if cache_salt is not None:
            checks.text("cache_salt", cache_salt, "a text, or None", empty=True)
        request, tokens = self._native.submit(
            batch.plain(prompt),
            params,
            inbox.mailbox,
            cache_salt,
            checks.integer("priority", priority, -(2**31), 2**31 - 1),
            checks.boolean("skip_special_tokens", skip_special_tokens),
        )
        return RequestHandle(self._native, inbox, request, tokens, params)

    def _params(self, params: Params) -> Params:
        return self._default_params if params is None else params

    @cached_property
    def _default_params(self) -> GenerationParams:
        return self.default_params()

    async def _encoded(self, job: Job) -> Job:
        if not isinstance(job.prompt, str) or len(job.prompt) < _LONG_TEXT:
            return job
        import asyncio

        loop = asyncio.get_running_loop()
        return Job(await loop.run_in_executor(None, self._native.encode, job.prompt, True), job.params)

    def _new_inbox(self) -> Inbox:
        inbox = Inbox()
        with self._lock:
            self._inboxes.add(inbox)
        return inbox

    def _inbox_here(self) -> Inbox:
        """The inbox of the running asyncio loop; a new one where none runs."""
        loop = running_loop()
        if loop is None:
            return self._new_inbox()
        with self._lock:
            inbox = self._by_loop.get(loop)
            if inbox is None:
                inbox = self._by_loop[loop] = Inbox()
                self._inboxes.add(inbox)
        return inbox


def _work(prompt: Prompt | Sequence[str] | Sequence[Sequence[int]], params: Params) -> tuple[bool, list[Job]]:
    """Whether one answer or a list is due, and the jobs."""
    if not batch.is_prompt(prompt):
        return False, batch.jobs(prompt, params)
    if isinstance(params, Sequence):
        checks.refuse("params", params, "one set of parameters for one prompt")
    return True, batch.jobs([prompt], params)


def _template(path: str | os.PathLike[str] | None) -> str | None:
    if path is None:
        return None
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        checks.refuse("chat_template", str(path), f"a file of UTF-8 text that can be read ({reason})")
    return text
