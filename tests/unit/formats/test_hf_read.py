"""Reading a config.json: parity with transformers on published and constructed configs, and clear refusals."""

import math
from pathlib import Path
from typing import Any

import pytest
from stock import ROTARY, assert_same, load, published
from transformers import CONFIG_MAPPING, Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, Phi3Config

from ropewalk import T5, Alibi, Learned, Linear, Llama3, LongRope, Proportional, Rotary, Temperature, Yarn
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.formats.hf import read
from ropewalk.formats.layers import rotary_of

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
LATER = "eurobert minicpm3 ministral3 modernbert paddleocr_vl_text qwen2_5_vl_text qwen3_5_text qwen3_vl_text"
MORE = "llama4_text mixtral olmo3 phi qwen3_next smollm3 stablelm starcoder2"


@pytest.mark.parametrize("kind", [*FAMILIES.split(), *LATER.split(), *MORE.split()])
def test_the_defaults_of_a_family_give_the_tables_of_transformers(kind: str) -> None:
    config = CONFIG_MAPPING[kind]()
    layers = read(config.to_dict())
    assert len(layers) == config.num_hidden_layers
    for layer in (0, 1, 3, 5, len(layers) - 1):
        if (e := rotary_of(layers[layer])) is not None:
            assert_same(e, config, layer, 100)


# their classes default to scaled or nested parameters, which every published file of theirs spells out
SPELT_OUT = "apertus exaone4 gemma3n_text gemma4_text gpt_oss".split()


@pytest.mark.parametrize("kind", sorted({*f"{FAMILIES} {LATER} {MORE} phi3 gemma3_text qwen3".split()} - {*SPELT_OUT}))
def test_what_a_family_takes_for_granted_may_be_left_out(kind: str) -> None:
    """Published configs leave out what equals the default of their class; sizes are always there."""
    config = CONFIG_MAPPING[kind]().to_dict()
    granted = "rope_parameters layer_types no_rope_layers attn_temperature_tuning floor_scale attn_scale".split()
    assert read({k: v for k, v in config.items() if k not in granted}) == read(config)


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
        ({"rope_theta": "big"}, "rope_theta must be 0 or a number"),
        ({"partial_rotary_factor": 2.0}, "rotary dimension must be .*got 32"),
    ],
    ids=str,
)
def test_a_bad_value_is_named(rope: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(llama(**rope))
    assert "\n" not in str(caught.value)


def test_rope_parameters_are_an_object() -> None:
    with pytest.raises(ConfigError, match="rope_scaling must be a JSON object, got 'linear'"):
        read({**LLAMA, "rope_scaling": "linear"})


def test_a_layer_type_without_parameters_is_named() -> None:
    nested = {"full_atention": {"rope_type": "default"}}
    with pytest.raises(ConfigError, match="'full_attention'; did you mean 'full_atention'"):
        read({**LLAMA, "rope_parameters": nested})


def test_biases_stand_in_every_layer() -> None:
    assert read(published("bloom-560m")) == (Alibi(16),) * 24
    assert read(published("mpt-7b")) == (Alibi(32),) * 32
    both, back = T5(8, bidirectional=True), T5(8)
    assert read(published("t5-small")) == (both,) * 6 + (back,) * 6


def test_the_slopes_of_falcon_are_divided_by_the_root_of_the_head_dim() -> None:
    (e,) = set(read(published("falcon-rw-1b")))
    assert e.slopes() == tuple(slope / 8 for slope in Alibi(32).slopes())
    with pytest.raises(UnsupportedError, match="falcon's ALiBi over 71 heads of 64 channels"):
        read({**published("falcon-7b"), "alibi": True})


def test_a_learned_table_stands_in_the_first_layer() -> None:
    assert read(published("gpt2")) == (Learned(768, 1024), *[()] * 11)
    assert read(published("opt-125m"))[0] == Learned(768, 2048, 2)
    assert read(published("roberta-base"))[0] == Learned(768, 512, 2)
    small = {**published("bert-base"), "model_type": "electra", "embedding_size": 128}
    assert read(small)[0] == Learned(128, 512)


def test_positions_of_pictures_and_text() -> None:
    assert read(published("qwen2-vl-7b"))[0] == Rotary(128, 1e6, sections=(16, 24, 24))
    assert read(published("qwen3-vl-8b"))[0] == Rotary(128, 5e6, sections=(24, 20, 20), layout="interleaved")
    other = {"type": "mrope", "mrope_section": [8, 28, 28]}
    assert read({**published("qwen2-vl-7b"), "rope_scaling": other})[0].sections == (8, 28, 28)
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32768}
    assert read({**published("qwen2.5-vl-7b"), "rope_scaling": yarn})[0] == Rotary(
        128, 1e6, (Yarn(2.0, 32768),), sections=(16, 24, 24)
    )
    # the code of a model of text does not read it
    assert read(llama(mrope_section=[4, 2, 2]))[0] == Rotary(16)
    novel = {**llama(mrope_section=[4, 2, 2]), "model_type": "novel"}
    assert read(novel)[0] == Rotary(16, sections=(4, 2, 2))
    for wrong in ([16, 24, 23], [64], [16, 24.0, 24], "16"):
        with pytest.raises(ConfigError, match="mrope_section must be "):
            read({**published("qwen2-vl-7b"), "rope_scaling": {"type": "mrope", "mrope_section": wrong}})
    with pytest.raises(UnsupportedError, match="ernie4_5_vl_moe deals its pairs"):
        read({**llama(mrope_section=[22, 22, 20]), "model_type": "ernie4_5_vl_moe"})


def test_sharper_queries() -> None:
    turning = Rotary(128, 5e5, (Llama3(16.0, 8192, 1.0, math.nextafter(1.0, 2.0)),), "interleaved")
    assert read(published("llama-4-scout")) == (turning, turning, turning, Temperature(8192, 0.1)) * 12
    plain = published("llama-4-scout")
    plain["text_config"]["attn_temperature_tuning"] = False
    assert read(plain)[3] == ()
    yarn = Yarn(16.0, 16384, mscale=1.0, mscale_all_dim=1.0)
    both = (Rotary(128, 1e6, (yarn,)), Temperature(16384, 0.1, start=0))
    assert read(published("ministral-3-8b")) == (both,) * 34


def test_modernbert_turns_local_layers_faster() -> None:
    everywhere, local = Rotary(64, 160000.0), Rotary(64, 10000.0)
    assert read(published("modernbert-base")) == ((everywhere, local, local) * 8)[:22]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "recurrent state"),
        ({"model_type": "novel", "is_encoder_decoder": True, "rope_theta": 1e4}, "encoder-decoder"),
        ({"model_type": "nomic_bert", "rope_theta": 1e4}, "encoder with rotary"),
        ({"model_type": "deberta"}, "encoder with disentangled"),
        ({"model_type": "novel", "hidden_size": 8}, "no rotary positions found"),
        ({"model_type": "novel", "alibi": True, "rope_theta": 1e4}, "ALiBi"),
        ({"model_type": "mpt", "n_heads": 8, "n_layers": 2, "attn_config": {"alibi": False}}, "attn_config.alibi true"),
        ({**published("bert-base"), "position_embedding_type": "relative_key"}, "'relative_key' is not read"),
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
