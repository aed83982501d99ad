"""The table: names, and what chat templates show."""

import pytest

from candle_vllm.errors import ConfigError
from candle_vllm.tools import FORMATS, Splitter, detect, find, parse

VLLM = (
    "hermes qwen3_coder mistral llama3_json pythonic llama4_pythonic deepseek_v3 deepseek_v31 deepseek_v32 glm45 glm47 "
    "kimi_k2 openai granite granite4 phi4_mini_json minimax_m2 gemma4 functiongemma cohere lfm2 olmo3 hunyuan_a13b xlam"
)
EARLIER = {
    "passthrough": "passthrough",
    "json": "generic",
    "mistral": "mistral",
    "qwen": "hermes",
    "qwen_coder": "qwen3_coder",
    "llama": "llama3_json",
    "deepseek": "deepseek_v3",
    "glm47_moe": "glm47",
    "minimax_m2": "minimax_m2",
    "gemma4": "gemma4",
}

# What a template says of calls, told from the templates' formats.
TEMPLATES = {
    "hermes": r"""{{- "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" }}""",
    "qwen3_coder": "'<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1'",
    "mistral": "{{- '[TOOL_CALLS]' + name + '[CALL_ID]' + id + '[ARGS]' + arguments }}",
    "mistral_list": """{{- "[TOOL_CALLS][" }}{{- '{"name": ' }}""",
    "llama3_json": """{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name """
    """and its value}. <|python_tag|>' }}""",
    "pythonic": "in the format of [func_name1(params_name1=params_value1...), func_name2(params)]",
    "llama4_pythonic": "{{- '<|python_start|>' + call + '<|python_end|>' }}",
    "deepseek_v3": "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + type + '<｜tool▁sep｜>' + name + '\\n```json\\n'",
    "deepseek_v31": "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments",
    "deepseek_v32": "{%- set dsml_token = '｜DSML｜' -%}<{{ dsml_token }}function_calls>",
    "glm45": "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>",
    "glm47": "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>",
    "kimi_k2": "<|tool_calls_section_begin|>{%- for call in calls %}<|tool_call_begin|>",
    "openai": "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>",
    "granite": "<|start_of_role|>system ... respond with <|tool_call|> followed by a JSON list of tools used",
    "granite4": "<|start_of_role|>system ... <tool_call>\n{...}\n</tool_call>",
    "phi4_mini_json": "'<|tool|>' + tools + '<|/tool|>' + '<|end|>'",
    "minimax_m2": "{%- set toolcall_begin_token = '<minimax:tool_call>' -%}",
    "seed_oss": "{%- set toolcall_begin_token = '<seed:tool_call>' -%}",
    "gemma4": "{{- '<|tool_call>call:' + function['name'] + '{' -}}",
    "functiongemma": "{{- '<start_function_call>call:' + name -}}",
    "cohere": '<|START_ACTION|>[\n{"tool_call_id": "0"}]<|END_ACTION|>',
    "lfm2": "'List of tools: <|tool_list_start|>['",
    "olmo3": "<function_calls>{{ calls }}</function_calls>",
    "hunyuan_a13b": "'<tool_calls>[' + calls + ']</tool_calls>'",
    "xlam": """'make calls in a single JSON array: [{"name": "tool_call_name", "arguments": {}}]' <|eom_id|>""",
}


@pytest.mark.parametrize("name", VLLM.split())
def test_formats_bear_the_names_of_vllms_parsers(name: str) -> None:
    assert find(name).name == name


@pytest.mark.parametrize(("name", "means"), EARLIER.items())
def test_names_of_the_earlier_binary(name: str, means: str) -> None:
    assert find(name).name == means


def test_case_and_dashes_do_not_matter() -> None:
    assert find("Qwen3-Coder") is find("qwen3_coder")


def test_names_are_unique() -> None:
    names = [name for form in FORMATS for name in form.names]
    assert len(names) == len(set(names))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    for use in (find, Splitter, lambda name: parse("", name)):
        with pytest.raises(ConfigError, match=r"'hermse'.*nearest is 'hermes'.*deepseek_v3"):
            use("hermse")


@pytest.mark.parametrize(("name", "template"), TEMPLATES.items())
def test_a_template_shows_its_format(name: str, template: str) -> None:
    found = detect(template)
    assert found is not None
    assert found.name == name


def test_a_template_without_tools_shows_none() -> None:
    assert detect("{% for message in messages %}<|im_start|>{{ message.role }}{% endfor %}") is None


def test_each_format_that_templates_can_show_is_shown() -> None:
    assert {form.name for form in FORMATS if form.signs} == set(TEMPLATES)


def test_marks_are_what_calls_are_written_with() -> None:
    for form in FORMATS:
        assert not form.opening or form.opening.startswith(tuple(form.marks)) or form.name in _PLAIN_OPENINGS


_PLAIN_OPENINGS = ("phi4_mini_json", "deepseek_v32")
