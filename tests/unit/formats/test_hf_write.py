"""Writing a config.json: stock transformers must build the same tables from what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
from stock import ROTARY, assert_same, load, published, scalings, with_scaling

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.formats.hf import read, write
from ropewalk.formats.write_rope import per_pair
from ropewalk.spectrum import for_length

LENGTH = 65536
FORMS = [
    "gemma-3-1b",
    "gemma-3-4b",
    "gpt-oss-20b",
    "llama-3.1-8b",
    "phi-3-mini-128k",
    "pythia-160m",
    "qwen2.5-7b-yarn",
    "smollm3-3b",
]


@pytest.mark.parametrize("index", range(len(scalings(2, 64))))
@pytest.mark.parametrize("name", FORMS)
def test_transformers_builds_what_was_written(name: str, index: int, tmp_path: Path) -> None:
    config = published(name)
    pairs = next(e for e in read(config) if e != ()).dim // 2
    encodings = with_scaling(config, scalings(pairs, 4096)[index])
    written, notes = write(encodings, config, LENGTH)
    assert notes == ()
    stock = load(written, tmp_path)
    assert stock.max_position_embeddings == LENGTH
    for layer in (0, 1, 3, 5):
        if (e := encodings[layer]) != ():
            for length in (100, 5000, LENGTH):
                assert_same(e, stock, layer, length)


@pytest.mark.parametrize("index", range(len(scalings(2, 64))))
@pytest.mark.parametrize("name", ["deepseek-v3", "cohere-r7b"])
def test_interleaved_models_too(name: str, index: int, tmp_path: Path) -> None:
    config = published(name)
    pairs = read(config)[0].dim // 2
    encodings = with_scaling(config, scalings(pairs, 4096)[index])
    written, _ = write(encodings, config, LENGTH)
    assert_same(encodings[0], load(written, tmp_path), 0, LENGTH)


@pytest.mark.parametrize("name", [*ROTARY, "gpt-j-6b"])
def test_what_is_read_can_be_written_back(name: str) -> None:
    config = published(name)
    inner = config.get("text_config", config)
    length = inner.get("max_position_embeddings", inner.get("n_positions", 131072))
    written, notes = write(read(config), config, length)
    assert notes == ()
    before, after = ([for_length(e, 8192) for e in layers] for layers in (read(config), read(written)))
    assert [e and e.spectrum() for e in before] == [e and e.spectrum() for e in after]


def test_a_rewritten_config_can_be_written_again(tmp_path: Path) -> None:
    first, _ = write((Rotary(128, 5e5, (rw.Yarn(2.0, 8192, truncate=False),)),) * 32, published("llama-3.1-8b"), 16384)
    again = load(first, tmp_path).to_dict()
    second, _ = write((Rotary(128, 5e5, (rw.NTK(4.0),)),) * 32, again, 32768)
    stock = load(second, tmp_path)
    assert_same(Rotary(128, 5e5, (rw.NTK(4.0),)), stock, 0, 20000)
    assert stock.max_position_embeddings == 32768


def test_both_generations_find_the_same_parameters() -> None:
    encodings = (Rotary(128, 1e6, (rw.Yarn(4.0, 32768),)),) * 28
    written, _ = write(encodings, published("qwen3-0.6b"), 131072)
    old = {k: v for k, v in written.items() if k != "rope_parameters"}
    new = {k: v for k, v in written.items() if k not in ("rope_scaling", "rope_theta")}
    assert read(old) == read(new) == encodings
    json.dumps(written)


@pytest.mark.parametrize(
    ("scaling", "rope_type"),
    [
        (rw.NTK(2.0), "default"),
        (rw.BaseChange(1e6), "default"),
        (rw.Yarn(2.0, 8192), "yarn"),
        (rw.Llama3(2.0, 8192), "llama3"),
        (rw.Linear(2.0), "linear"),
        (rw.NTKByParts(2.0, 8192), "longrope"),
        (rw.Proportional(0.25), "proportional"),
    ],
    ids=repr,
)
def test_a_rule_with_a_type_of_its_own_keeps_it(scaling: Any, rope_type: str) -> None:
    written, _ = write((Rotary(128, 5e5, (scaling,)),) * 32, published("llama-3.1-8b"), 16384)
    assert written["rope_parameters"]["rope_type"] == rope_type
    assert written.get("rope_scaling") == (None if rope_type == "default" else written["rope_parameters"])


def test_adaptive_rules() -> None:
    config = published("llama-3.1-8b")
    kept, notes = write((Rotary(128, 5e5, (rw.DynamicNTK(2.0, 16384),)),) * 32, config, 16384)
    assert (kept["rope_parameters"]["rope_type"], notes) == ("dynamic", ())
    frozen, notes = write((Rotary(128, 5e5, (rw.DynamicNTK(2.0, 8192),)),) * 32, config, 16384)
    assert len(notes) == 1
    assert "DynamicNTK follows the length of the text" in notes[0].what
    assert notes[0].instead == "the rule frozen as it is at 16384 tokens"
    want = Rotary(128, 5e5, (rw.NTK(3.0),)).spectrum().inv_freq
    assert read(frozen)[0].spectrum().inv_freq == pytest.approx(want, rel=1e-12)
    yarn, notes = write((Rotary(128, 5e5, (rw.DynamicYarn(8192),)),) * 32, config, 32768)
    assert read(yarn)[0] == Rotary(128, 5e5, (rw.Yarn(4.0, 8192),))
    assert "DynamicYarn" in str(notes[0])
    long = rw.LongRope((1.0,) * 64, (2.0,) * 64, 8192, factor=4.0)
    same, notes = write((Rotary(128, 5e5, (long,)),) * 32, config, 32768)
    assert notes == ()
    assert for_length(read(same)[0], 100) == for_length(Rotary(128, 5e5, (long,)), 100)


def test_a_length_beside_the_dict_follows(tmp_path: Path) -> None:
    config = published("phi-3-mini-128k")
    e = Rotary(96, 1e4, (rw.LongRope((1.0,) * 48, (2.0,) * 48, 8192, factor=2.0),))
    stock = load(write((e,) * 32, config, 16384)[0], tmp_path)
    assert stock.original_max_position_embeddings == 8192
    for length in (5000, 10000):
        assert_same(e, stock, 0, length)


def test_a_changed_softmax_factor_is_told() -> None:
    config = published("deepseek-v3")
    plain = tuple(Rotary(64, 1e4, (rw.Yarn(40.0, 4096),), "interleaved") for _ in range(61))
    _, notes = write(plain, config, 163840)
    assert len(notes) == 1
    assert "mscale_all_dim" in str(notes[0])


@pytest.mark.parametrize(
    ("e", "message"),
    [
        (Rotary(64, 5e5), "layer 0 has dim 128 in the model's code, not 64"),
        (Rotary(128, 5e5, pairing="interleaved"), "layer 0 has pairing 'half'"),
        (Rotary(128, 5e5, unscaled=4), "first 4 tokens unscaled"),
        ((), "layer 0 is Rotary.*cannot make it \\(\\)"),
    ],
    ids=repr,
)
def test_what_no_config_can_say_is_refused(e: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        write((e,) * 32, published("llama-3.1-8b"), 8192)


def test_layers_that_differ_need_layer_types() -> None:
    layers = (Rotary(128, 5e5),) * 31 + (Rotary(128, 1e6),)
    with pytest.raises(UnsupportedError, match="layer 31 differs from other layers"):
        write(layers, published("llama-3.1-8b"), 8192)
    with pytest.raises(ConfigError, match="encodings must be 32, one per layer, got 2"):
        write(layers[:2], published("llama-3.1-8b"), 8192)


def test_angles_in_the_code_stay() -> None:
    with pytest.raises(UnsupportedError, match="gptj has its angles built in"):
        write((Rotary(64, scaling=(rw.NTK(2.0),), pairing="interleaved"),) * 28, published("gpt-j-6b"), 4096)


def test_divisors_per_pair() -> None:
    e = Rotary(8, 1e4, (rw.Rescale((1.0, 2.0, 3.0, 4.0), 1.5),))
    assert per_pair(e) == pytest.approx((1.0, 2.0, 3.0, 4.0), rel=1e-15)
