import pytest

from candle_vllm import ModelLoadError
from candle_vllm.sources.choose import Chosen, choose

SPLIT = ["q8/m-00001-of-00002.gguf", "q8/m-00002-of-00002.gguf"]


def test_safetensors_come_with_their_small_files() -> None:
    names = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "x.gguf"]
    assert choose(names, None, "it") == Chosen(("model.safetensors", "config.json", "tokenizer.json"), None)


def test_shards_come_with_their_index() -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    names = [*shards, "model.safetensors.index.json", "consolidated.safetensors", "original/model.safetensors"]
    assert choose(names, None, "it").names == (*shards, "model.safetensors.index.json")


def test_other_names_of_safetensors() -> None:
    assert choose(["weights.safetensors", "consolidated.safetensors"], None, "it").names == ("weights.safetensors",)
    assert choose(["consolidated.safetensors"], None, "it").names == ("consolidated.safetensors",)


def test_named_templates_come_too() -> None:
    names = ["additional_chat_templates/rag.jinja", "chat_template.jinja", "model.safetensors", "other/x.jinja"]
    assert set(choose(names, None, "it").names) == set(names[:3])


def test_the_only_gguf_is_taken() -> None:
    assert choose(["m.gguf", "mmproj-m.gguf", "README.md"], None, "it") == Chosen(("m.gguf",), "m.gguf")
    assert choose(SPLIT, None, "it") == Chosen(tuple(SPLIT), SPLIT[0])


@pytest.mark.parametrize("wanted", ["m-Q4_0.gguf", "Q4_0", "q4_0", "sub/m-Q4_0.gguf"])
def test_a_gguf_by_name_or_part_of_it(wanted: str) -> None:
    names = ["sub/m-Q4_0.gguf", "m-Q4_0_8.gguf", "m-Q8_0.gguf", *SPLIT, "model.safetensors"]
    assert choose(names, wanted, "it").main == "sub/m-Q4_0.gguf"


def test_a_split_gguf_by_part_of_its_name() -> None:
    assert choose(["m-Q4_0.gguf", *SPLIT], "q8", "it") == Chosen(tuple(SPLIT), SPLIT[0])


@pytest.mark.parametrize(
    ("names", "wanted", "said"),
    [
        (["a.gguf", "b.gguf"], None, "name one with weight_file.*a.gguf, b.gguf"),
        (["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0", "fits several files.*a-Q4_0.gguf, b-Q4_0.gguf"),
        (["a.gguf"], "b.gguf", "no GGUF file 'b.gguf'; there is a.gguf"),
        (["model.safetensors"], "Q4_0", "no GGUF file 'Q4_0'; there is none"),
        (SPLIT[:1], None, "m-00002-of-00002.gguf"),
        (["pytorch_model.bin", "config.json"], None, "pickles.*pytorch_model.bin.*refused"),
        (["config.json"], None, "no weights.*config.json"),
        ([], None, "no weights.*no files"),
    ],
)
def test_what_cannot_be_chosen(names: list[str], wanted: str | None, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said) as caught:
        choose(names, wanted, "the place")
    assert "the place" in str(caught.value)
