"""Templates within bounds: whatever one does, it ends soon and small."""

from __future__ import annotations

import resource
import time

import pytest

from candle_vllm.chat import ChatTemplate, ChatTemplateError

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**12 }}",
        "{{ 'x' * 1000000000000 }}",
        "{{ 1000000000000 * 'x' }}",
        "{{ [0] * 10000000000 }}",
        "{{ 10 ** 100000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}x{% endfor %}{% endfor %}",
        "{{ ('x' * 60000000).replace('x', 'y' * 1000) | length }}",
        "{{ ('x' * 60000000) | replace('x', 'y' * 1000) | length }}",
        "{{ ('x' * 60000).join('y' * 60000) | length }}",
        "{{ '{:>{}}'.format(1, 1000000000) }}",
        "{{ 'x' | center(1000000000) | length }}{{ 1 / 0 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% set ns = namespace(t='xxxxxxxx') %}{% for a in range(90) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
        "{{ range(10**9) | list }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
    ],
)
def test_bombs(source: str) -> None:
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source).render(MESSAGES)
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000


def test_loops_are_what_they_were() -> None:
    source = (
        "{% for a in items %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ a }}{% if not loop.last %},{% endif %}"
        "{% else %}none{% endfor %}|{% for k, v in pairs.items() %}{{ k }}={{ v }}{% endfor %}|"
        "{% for a in items[::-1] if a != 2 %}{{ a }}{% endfor %}|{% for a in [] %}x{% else %}none{% endfor %}|"
        "{% for a in items recursive %}{{ a if a is integer else loop(a) }}{% endfor %}"
    )
    text = ChatTemplate(source).render(
        MESSAGES, variables={"items": [1, 2, 3], "pairs": {"a": 1, "b": 2}}, add_generation_prompt=False
    )
    assert text == "1False31,2False32,3True33|a=1b=2|31|none|123"
