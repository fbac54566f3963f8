"""Reading a config.json: parity with transformers on published and constructed configs, and clear refusals."""

from pathlib import Path
from typing import Any

import pytest
from stock import ROTARY, assert_same, load, published
from transformers import CONFIG_MAPPING, Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, Phi3Config

from ropewalk import Linear, Llama3, LongRope, Proportional, Rotary, Yarn
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.formats.hf import read

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}


def llama(**rope: Any) -> dict[str, Any]:
    return {**LLAMA, "rope_parameters": {"rope_theta": 1e4, **rope}}


@pytest.mark.parametrize("length", [100, 5000])
@pytest.mark.parametrize("name", ROTARY)
def test_published_config_gives_the_tables_of_transformers(name: str, length: int, tmp_path: Path) -> None:
    config = published(name)
    stock = load(config, tmp_path)
    for layer in (0, 1, 3, 5):
        if (e := read(config)[layer]) != ():
            assert_same(e, stock, layer, length)


FAMILIES = "apertus cohere2 deepseek_v2 ernie4_5 exaone4 gemma2 gemma3n_text gemma4_text glm4 gpt_oss granite helium"
MORE = "llama4_text mixtral olmo3 phi qwen3_next smollm3 stablelm starcoder2"


@pytest.mark.parametrize("kind", [*FAMILIES.split(), *MORE.split()])
def test_the_defaults_of_a_family_give_the_tables_of_transformers(kind: str) -> None:
    config = CONFIG_MAPPING[kind]()
    layers = read(config.to_dict())
    assert len(layers) == config.num_hidden_layers
    for layer in (0, 1, 3, 5, len(layers) - 1):
        if (e := layers[layer]) != ():
            assert_same(e, config, layer, 100)


@pytest.mark.parametrize("name", ROTARY)
def test_a_config_reads_the_same_after_transformers_rewrote_it(name: str, tmp_path: Path) -> None:
    assert read(load(published(name), tmp_path).to_dict()) == read(published(name))


ROPES = [
    {},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 16},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 4, "beta_slow": 2},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 0},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "truncate": False},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 0.9},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.0},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "mscale": 0.7},
    {"rope_type": "longrope", "short_factor": [1.5] * 8, "long_factor": [3.0] * 8, "factor": 4.0},
    {
        "rope_type": "longrope",
        "short_factor": [1.5] * 8,
        "long_factor": [3.0] * 8,
        "original_max_position_embeddings": 16,
    },
    {"rope_type": "longrope", "short_factor": [1.5] * 8, "long_factor": [3.0] * 8, "attention_factor": 1.25},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    {"rope_type": "proportional", "partial_rotary_factor": 0.25},
    {"rope_type": "proportional", "partial_rotary_factor": 0.3, "factor": 2.0},
]


@pytest.mark.parametrize("length", [10, 64, 65, 200])
@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_every_rope_type_gives_the_tables_of_transformers(rope: dict[str, Any], length: int, tmp_path: Path) -> None:
    config = llama(**rope)
    assert_same(read(config)[0], load(config, tmp_path), 0, length)


@pytest.mark.parametrize("rope", [r for r in ROPES if r], ids=str)
def test_both_generations_of_fields_read_alike(rope: dict[str, Any]) -> None:
    old = {"type": rope["rope_type"], **{k: v for k, v in rope.items() if k != "rope_type"}}
    assert read({**LLAMA, "rope_theta": 1e4, "rope_scaling": old}) == read(llama(**rope))


def test_what_published_configs_mean() -> None:
    assert read(published("llama-3.1-8b")) == (Rotary(128, 5e5, (Llama3(8.0, 8192),)),) * 32
    assert read(published("qwen2.5-7b-yarn")) == (Rotary(128, 1e6, (Yarn(4.0, 32768),)),) * 28
    local, everywhere = Rotary(256, 1e4), Rotary(256, 1e6, (Linear(8.0),))
    assert read(published("gemma-3-4b")) == ((*[local] * 5, everywhere) * 6)[:34]
    deepseek = Yarn(40.0, 4096, mscale=1.0, mscale_all_dim=1.0)
    assert read(published("deepseek-v3")) == (Rotary(64, 1e4, (deepseek,), "interleaved"),) * 61
    assert read(published("gpt-j-6b")) == (Rotary(64, pairing="interleaved"),) * 28
    assert read(published("pythia-160m")) == (Rotary(16),) * 12
    assert read(published("gpt-oss-20b"))[0] == Rotary(64, 1.5e5, (Yarn(32.0, 4096, truncate=False),))
    phi = read(published("phi-3-mini-128k"))[0].scaling[0]
    assert isinstance(phi, LongRope)
    assert (phi.factor, phi.trained_length) == (32.0, 4096)


def test_layers_without_positions() -> None:
    turning = Rotary(128, 5e6)
    assert read(published("smollm3-3b")) == (turning, turning, turning, ()) * 9
    assert [e != () for e in read(published("cohere-r7b"))] == [True, True, True, False] * 8
    nested = {"full_attention": None, "sliding_attention": {"rope_type": "default", "rope_theta": 5e4}}
    kinds = ["full_attention", "sliding_attention"]
    assert read({**LLAMA, "layer_types": kinds, "rope_parameters": nested}) == ((), Rotary(16, 5e4))


def test_where_both_generations_are_given_the_old_one_wins(tmp_path: Path) -> None:
    config = {**llama(rope_type="linear", factor=2.0), "rope_scaling": {"type": "linear", "factor": 4.0}}
    assert read(config)[0].scaling == (Linear(4.0),)
    assert_same(read(config)[0], load(config, tmp_path), 0, 64)


def test_nested_truncate_counts() -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "truncate": False}
    full = {**rope, "original_max_position_embeddings": 64}
    config = {**LLAMA, "layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": full}}
    assert read(config)[0] == Rotary(16, scaling=(Yarn(4.0, 64, truncate=False),))


def test_a_length_beside_the_dict_wins_in_flat_form_alone() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    beside = {**LLAMA, "original_max_position_embeddings": 32}
    assert read({**beside, "rope_parameters": rope})[0].scaling == (Yarn(4.0, 32),)
    nested = {**beside, "layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": rope}}
    assert read(nested)[0].scaling == (Yarn(4.0, 64),)


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2), Rotary(16)),
        (GPTNeoXConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=2), Rotary(8)),
        (Phi3Config(hidden_size=64, num_attention_heads=2, num_hidden_layers=2), Rotary(32)),
        (Gemma3TextConfig(hidden_size=64, num_attention_heads=2, head_dim=8, num_hidden_layers=2), Rotary(8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_configs_of_transformers(config: Any, first: Rotary) -> None:
    assert read(config.to_dict()) == (first, first)


def test_proportional_keeps_the_exponents_of_the_whole_head() -> None:
    rope = {"rope_type": "proportional", "partial_rotary_factor": 0.25}
    assert read(llama(**rope))[0] == Rotary(16, scaling=(Proportional(0.25),))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarm", "factor": 2.0}, "rope_type 'yarm' .*did you mean 'yarn'"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fsat": 32}, "'beta_fsat' is not known; did you mean 'beta_fast'"),
        ({"rope_type": "yarn", "factor": 2.0, "attn_factor": 0.9}, "'attn_factor'.*did you mean 'attention_factor'"),
        ({"rope_type": "linear", "factor": -4.0}, "rope parameter factor must be .*got -4.0"),
        ({"rope_type": "linear", "factor": "2"}, "factor must be .*got '2'"),
        ({"rope_type": "linear", "factor": 0.5}, "rope parameter factor must be .*at least 1.*got 0.5"),
        ({"rope_type": "linear"}, "factor must be .*got None"),
        ({"rope_type": "yarn"}, "factor must be .*got None"),
        ({"rope_type": "dynamic", "factor": None}, "factor must be .*got None"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor must be .*got None"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 8}, "long_factor must be .*got None"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}, "short_factor must be 8"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": "no"}, "truncate must be true or false, got 'no'"),
        ({"factor": 2.0}, "rope_type must be given for 'factor'"),
        ({"rope_theta": "big"}, "rope_theta must be a number"),
        ({"partial_rotary_factor": 2.0}, "rotary dimension must be .*got 32"),
    ],
    ids=str,
)
def test_a_bad_value_is_named(rope: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(llama(**rope))
    assert "\n" not in str(caught.value)


def test_rope_parameters_are_an_object() -> None:
    with pytest.raises(ConfigError, match="rope_parameters must be a JSON object, got 'linear'"):
        read({**LLAMA, "rope_scaling": "linear"})


def test_a_layer_type_without_parameters_is_named() -> None:
    nested = {"full_atention": {"rope_type": "default"}}
    with pytest.raises(ConfigError, match="'full_attention'; did you mean 'full_atention'"):
        read({**LLAMA, "rope_parameters": nested})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt2", "learned table"),
        ("opt-125m", "learned table"),
        ("bloom-560m", "ALiBi"),
        ("t5-small", "encoder-decoder.*distance bucket"),
        ("bert-base", "encoder.*learned table"),
    ],
)
def test_a_model_without_rotary_positions_is_refused(name: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read(published(name))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mpt"}, "ALiBi"),
        ({"model_type": "falcon", "alibi": True}, "ALiBi"),
        ({"model_type": "mamba"}, "recurrent state"),
        ({"model_type": "novel", "is_encoder_decoder": True, "rope_theta": 1e4}, "encoder-decoder"),
        ({"model_type": "modernbert", "rope_theta": 1e4}, "encoder with rotary"),
        ({"model_type": "novel", "hidden_size": 8}, "no rotary positions found"),
    ],
    ids=str,
)
def test_other_models_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read(config)


def test_any_model_type_with_rope_parameters_is_read() -> None:
    assert read({**llama(rope_type="linear", factor=2.0), "model_type": "novel"})[0] == Rotary(
        16, scaling=(Linear(2.0),)
    )
