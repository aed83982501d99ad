"""From a request to what the engine is asked: prompts as token ids, parameters of each answer.

Whatever is slow for a long prompt runs in a thread, lest the event loop stand still.
Must not know how answers are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from candle_vllm.chat import ChatTemplate, ChatTemplateError
from candle_vllm.errors import ConfigError, TokenizationError
from candle_vllm.generation.constrain import constraint_fields, may_be_free
from candle_vllm.generation.errors import RequestError
from candle_vllm.generation.infill import Asking, infill_of
from candle_vllm.generation.merge import AT_ONCE
from candle_vllm.generation.request import Conversation, GenerationRequest, Prompts
from candle_vllm.generation.shorten import shortened
from candle_vllm.generation.tool_prompt import as_text
from candle_vllm.models import LoadedModel
from candle_vllm.params import GenerationParams

__all__ = ["MOST_ANSWERS", "Prepared", "Rendered", "most_shown", "prepare", "render", "seed_of_choice"]

MOST_ANSWERS = 2048
"""Of one request, over all its prompts."""

_MOST_SCORES = 200_000
"""Log-probabilities of prompt tokens in one reply: 8 MB of JSON."""
_MOST_SHOWN = 500_000
# What the engine calls the form of an answer.
_FORMS = frozenset(("structured_output", "json_object", "json_schema", "regex", "choice", "grammar"))
_LIGHT = 8_000
"""Characters and values whose rendering and encoding hold the event loop for about a millisecond."""
_U64 = 2**64 - 1
# Variables that the renderer itself sets; a request may not replace them.
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "self"})


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is submitted: answer i belongs to prompt i // n and is sampled by `params[i]`."""

    prompts: Sequence[list[int]]
    thinking: Sequence[bool]
    """For each prompt, whether it ends within the model's thinking."""
    params: Sequence[GenerationParams]
    answers: int
    """Answers to each prompt."""
    after: Sequence[GenerationParams] = ()
    """For each answer what holds once its thinking was closed; empty where there is no budget."""

    def __iter__(self) -> Iterator[tuple[list[int], GenerationParams]]:
        """(prompt, parameters) of each answer, in order."""
        return iter([(self.prompts[at // self.answers], params) for at, params in enumerate(self.params)])


@dataclass(frozen=True, slots=True)
class Rendered:
    """One prompt."""

    text: str
    """As the template wrote it; empty where token ids were given."""
    ids: list[int]
    thinking: bool | None = False
    """Whether it ends within the model's thinking; None: behind it."""


async def prepare(request: GenerationRequest, model: LoadedModel) -> Prepared:
    """The prompts and parameters of a request to this model. Raises RequestError naming the client's field."""
    count_answers(request)
    _check_budget(request, model)
    prompts = await _prompts(request, model, refuse=True)
    _count_scores(request, model, [prompt.ids for prompt in prompts])
    each: list[GenerationParams] = []
    after: list[GenerationParams] = []
    for prompt in prompts:
        params = await _held(request, model, prompt)
        each += [_of_choice(params, choice) for choice in range(request.n)]
        if isinstance(request.input, Conversation):
            # All answers have the one prompt; its log-probabilities come with the first.
            each[1:] = [replace(params, prompt_logprobs=None) for params in each[1:]]
        if request.thinking_budget is not None:
            params = await _held(request, model, replace(prompt, thinking=None))
            after += [_of_choice(params, choice) for choice in range(request.n)]
        if len(each) % AT_ONCE < request.n:
            await asyncio.sleep(0)
    thinking = [bool(prompt.thinking) for prompt in prompts]
    return Prepared([prompt.ids for prompt in prompts], thinking, each, request.n, after)


def _check_budget(request: GenerationRequest, model: LoadedModel) -> None:
    if request.thinking_budget is not None and not (isinstance(request.input, Conversation) and model.reasoning.ending):
        raise request.refusal(
            "thinking_budget", "cannot be honoured: this model does not reason.", "unsupported_parameter"
        )


async def render(request: GenerationRequest, model: LoadedModel) -> Rendered:
    """The first prompt of a request alone, whether or not it fits; but not one that no reply could hold."""
    length = sum(map(len, _texts(request.input)))
    if length > (most := most_shown(model)):
        what = "messages" if isinstance(request.input, Conversation) else "prompt"
        raise request.refusal(what, f"has {length} characters of text, above {most} at once.")
    [prompt, *_] = await _prompts(request, model, refuse=False)
    return prompt


def most_shown(model: LoadedModel) -> int:
    """Characters whose tokens one reply may show: several times what the model's context holds."""
    return max(_MOST_SHOWN, 8 * model.engine.model_info.max_sequence_length)


async def _prompts(request: GenerationRequest, model: LoadedModel, *, refuse: bool) -> list[Rendered]:
    work = _prompts_of_conversation if isinstance(request.input, Conversation) else _prompts_of_items
    request = _less_hopeless(request, model)
    if _lighter_than(_LIGHT, (_weighed(request.input), request.tool_use.tools if request.tool_use else ())):
        return work(request, model)
    if refuse:
        await asyncio.to_thread(_refuse_hopeless, request, model)
    return await asyncio.to_thread(work, request, model)


def _count_scores(request: GenerationRequest, model: LoadedModel, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse more log-probabilities of prompts than one reply can be written with."""
    if request.prompt_logprobs is None:
        return
    each = model.info.vocab_size if request.prompt_logprobs < 0 else max(1, request.prompt_logprobs)
    scores = sum(map(len, prompts)) * request.n * each
    if scores > _MOST_SCORES:
        raise request.refusal(
            "prompt_logprobs", f"asks for {scores} log-probabilities of prompt tokens, above {_MOST_SCORES} a request."
        )


def _refuse_hopeless(request: GenerationRequest, model: LoadedModel) -> None:
    """Refuse a text whose beginning alone exceeds the context, before all of it is encoded.

    To encode megabytes costs a second and ten times their memory. A beginning of 32 characters a token leaves no doubt.
    """
    longest = max(_texts(request.input), key=len, default="")
    reach = 32 * model.engine.model_info.max_sequence_length
    if len(longest) > reach:
        try:
            _room(request, model, model.engine.tokenize(longest[:reach]), "more than ")
        except TokenizationError:
            # What is wrong with the whole text says more.
            return


def _less_hopeless(request: GenerationRequest, model: LoadedModel) -> GenerationRequest:
    """The request without messages that it may do without, and that must go by their length alone."""
    conversation = request.input
    if not isinstance(conversation, Conversation) or not conversation.shorten:
        return request
    reach = 32 * model.engine.model_info.max_sequence_length
    messages = shortened(conversation.messages, lambda rest: sum(map(len, _texts_of(rest))) <= reach)
    return replace(request, input=replace(conversation, messages=messages))


def _texts(source: Conversation | Prompts) -> Iterator[str]:
    return _texts_among([*source.items, source.suffix]) if isinstance(source, Prompts) else _texts_of(source.messages)


def _texts_of(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    return _texts_among([message.get("content") for message in messages])


def _texts_among(items: Sequence[Any]) -> Iterator[str]:
    for item in items:
        parts = [part.get("text") for part in item if isinstance(part, Mapping)] if isinstance(item, list) else [item]
        yield from (part for part in parts if isinstance(part, str))


def count_answers(request: GenerationRequest) -> None:
    """Refuse more answers than one request may have, before anything is built for them."""
    prompts = len(request.input.items) if isinstance(request.input, Prompts) else 1
    if prompts * request.n > MOST_ANSWERS:
        raise request.refusal(
            "prompt", f"has {prompts} prompts with {request.n} answers each, above {MOST_ANSWERS} answers a request."
        )


def _weighed(source: Conversation | Prompts) -> Any:
    if isinstance(source, Prompts):
        return (source.items, source.suffix or "")
    return (source.messages, source.documents, source.variables)


def _lighter_than(budget: int, value: Any) -> bool:
    """Whether texts, lists and mappings under `value` stay below `budget` characters and values together."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        budget -= 1
        if isinstance(each, str):
            budget -= len(each)
        elif isinstance(each, Mapping | list | tuple):
            budget -= len(each)
            if budget > 0:
                waiting += each.values() if isinstance(each, Mapping) else each
        if budget < 0:
            return False
    return True


def _prompts_of_conversation(request: GenerationRequest, model: LoadedModel) -> list[Rendered]:
    conversation = request.input
    assert isinstance(conversation, Conversation)
    if conversation.continue_final_message and conversation.add_generation_prompt:
        raise request.refusal("continue_final_message", "and 'add_generation_prompt' exclude each other.")
    messages = conversation.messages
    if conversation.shorten:
        context = model.engine.model_info.max_sequence_length
        most = context - min(request.max_tokens or context // 4, context // 2)
        messages = shortened(messages, lambda rest: len(_rendered(request, conversation, model, rest).ids) <= most)
    return [_rendered(request, conversation, model, messages)]


def _rendered(
    request: GenerationRequest, conversation: Conversation, model: LoadedModel, messages: Sequence[Mapping[str, Any]]
) -> Rendered:
    """These messages as a prompt, with all else that the conversation has."""
    try:
        tools = request.tool_use.tools if request.tool_use else ()
        template = model.templates.choose(with_tools=bool(tools), with_documents=bool(conversation.documents))
        if conversation.documents and not template.mentions("documents"):
            raise request.refusal(
                "documents", "cannot be shown: this model's chat template knows none.", "unsupported_parameter"
            )
        if not template.mentions("tools"):
            messages, tools = as_text(messages, tools, model.tool_format), ()
        text = template.render(
            model.control.marked(messages),
            tools=tools,
            documents=conversation.documents,
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final_message=conversation.continue_final_message,
            variables=_variables(request, conversation, template),
        )
        parts = model.control.parts(text)
        return Rendered("".join(parts), model.engine.tokenize_parts(parts), model.reasoning.begun_by(text))
    except ChatTemplateError as error:
        raise RequestError(str(error), param=request.named(error.field)) from error
    except TokenizationError as error:
        raise request.refusal("messages", f"cannot be encoded: {error}") from error


def _variables(request: GenerationRequest, conversation: Conversation, template: ChatTemplate) -> dict[str, Any]:
    given = dict(conversation.variables)
    for name in given:
        if name in _RESERVED:
            raise request.refusal(f"variables.{name}", "has a field of its own.")
    effort = conversation.reasoning_effort
    if effort is None:
        return given
    if template.mentions("reasoning_effort"):
        return {"reasoning_effort": effort, **given}
    if template.mentions("enable_thinking"):
        return {"enable_thinking": effort != "none", **given}
    if effort == "none":
        return given
    raise request.refusal(
        "reasoning_effort",
        "can only be 'none': this model does not reason before it answers.",
        "unsupported_parameter",
    )


def _prompts_of_items(request: GenerationRequest, model: LoadedModel) -> list[Rendered]:
    source = request.input
    assert isinstance(source, Prompts)
    prompts = []
    asking = _asking(request, model)
    for at, item in enumerate(source.items):
        place = f"prompt[{at}]" if len(source.items) > 1 else "prompt"
        try:
            if asking is not None and source.suffix is not None:
                given = item if isinstance(item, str) else list(item)
                ids = asking.prompt(given, source.suffix, source.add_special_tokens)
            else:
                ids = model.engine.tokenize(item, source.add_special_tokens) if isinstance(item, str) else list(item)
        except TokenizationError as error:
            raise request.refusal(place, f"cannot be encoded: {error}") from error
        if not ids:
            raise request.refusal(place, "is empty; this model needs at least one token to begin with.", "empty_array")
        largest = max(ids)
        if largest >= model.engine.model_info.vocab_size:
            raise request.refusal(
                place,
                f"holds the token id {largest}; this model's vocabulary ends at "
                f"{model.engine.model_info.vocab_size - 1}.",
            )
        prompts.append(Rendered(item if isinstance(item, str) else "", ids))
    return prompts


def _asking(request: GenerationRequest, model: LoadedModel) -> Asking | None:
    """How the model is asked for text between two others, where a suffix is given."""
    if not isinstance(request.input, Prompts) or request.input.suffix is None:
        return None
    if (asking := infill_of(model)) is None:
        raise request.refusal(
            "suffix",
            "cannot be honoured: this model's tokenizer has no tokens to ask for text between two others.",
            "unsupported_parameter",
        )
    return asking


async def _held(request: GenerationRequest, model: LoadedModel, prompt: Rendered) -> GenerationParams:
    """The parameters, with a form for the answer that the engine has compiled, in a thread, and can enforce."""
    # How long the answer is at least, and that it goes on past its end, is not for a grammar to say.
    free = may_be_free(request) and bool(request.sampling.keys() & {"min_tokens", "ignore_eos"})
    params = _params(request, model, prompt, free)
    if params.form is None:
        return params
    try:
        await asyncio.to_thread(model.engine.check_form, params)
    except ConfigError as error:
        if not may_be_free(request):
            raise refused(request, error) from error
        # Tools that cannot be enforced, and need not be, are called as the model likes.
        return _params(request, model, prompt, True)
    return params


def _params(request: GenerationRequest, model: LoadedModel, prompt: Rendered, free: bool) -> GenerationParams:
    limit = _room(request, model, prompt.ids)
    form = constraint_fields(request, model, prompt.thinking, free)
    fields = {**model.defaults.named(), **request.sampling, **form}
    if (asking := _asking(request, model)) is not None:
        fields["stop_token_ids"] = (*fields.get("stop_token_ids", ()), *asking.ends)
    if fields.get("min_tokens", 0) > limit:
        raise request.refusal("min_tokens", f"is {fields['min_tokens']}, above the {limit} tokens allowed.")
    try:
        return GenerationParams(
            max_tokens=limit, logprobs=request.logprobs, prompt_logprobs=request.prompt_logprobs, **fields
        )
    except ConfigError as error:
        raise refused(request, error) from error


def refused(request: GenerationRequest, error: ConfigError) -> RequestError:
    """A refusal by the engine's own checks, in the client's words."""
    if error.field is None:
        return RequestError(str(error))
    form = request.vocabulary_field if request.constraint is None else request.constraint.field
    shown = form if form is not None and error.field in _FORMS else request.named(error.field)
    return RequestError(str(error.named(shown)), param=shown)


def _room(request: GenerationRequest, model: LoadedModel, prompt: list[int], more: str = "") -> int:
    """Tokens that an answer may have: as many as wanted, or as the context leaves where that is less."""
    context = model.engine.model_info.max_sequence_length
    room = context - len(prompt)
    what = request.named("messages" if isinstance(request.input, Conversation) else "prompt")
    if room < (0 if request.max_tokens == 0 else 1):
        raise RequestError(
            f"This model's maximum context length is {context} tokens. However, your {what} resulted in "
            f"{more}{len(prompt)} tokens. Please reduce the length of the {what}.",
            param=what,
            code="context_length_exceeded",
        )
    return room if request.max_tokens is None else min(request.max_tokens, room)


def _of_choice(params: GenerationParams, choice: int) -> GenerationParams:
    if params.seed is None or choice == 0:
        return params
    return replace(params, seed=seed_of_choice(params.seed, choice))


def seed_of_choice(seed: int, choice: int) -> int:
    """The seed of answer number `choice`: the first has the request's own, the others are drawn from it.

    The mixing function is SplitMix64 (Steele, Lea, Flood 2014), so that neighbouring seeds share no answers.
    """
    if choice == 0:
        return seed & _U64
    mixed = (seed + choice * 0x9E3779B97F4A7C15) & _U64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _U64
    return mixed ^ (mixed >> 31)
