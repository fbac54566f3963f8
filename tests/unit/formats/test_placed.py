"""A scaling, a Rotary or a list, laid over the layers of a whole model."""

import pytest
from stock import LLAMA, every, published

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.formats import gguf, hf
from ropewalk.formats.converted import converted
from ropewalk.formats.layers import rotary_of
from ropewalk.formats.placed import placed, reaching

YARN = rw.Yarn(2.0, 8192)


def test_a_scaling_takes_the_place_of_the_models_own() -> None:
    config = published("llama-3.1-8b")
    assert hf.read(config)[0].scaling == (rw.Llama3(8.0, 8192),)
    assert placed(YARN, config, hf.read(config)) == every(YARN)


def test_everything_else_about_a_rotation_stays() -> None:
    for name in ("qwen2.5-vl-7b", "pythia-160m", "glm-4-9b"):
        config = published(name)
        own = hf.read(config)
        new = placed(YARN, config, own)
        assert {e.scaling for e in new} == {(YARN,)}
        assert [e.__class__(**{**vars(e), "scaling": ()}) for e in new] == list(own)


def test_a_query_temperature_stays() -> None:
    config = published("ministral-3-8b")
    own = hf.read(config)
    new = placed(YARN, config, own)
    assert [r and r.scaling for r in map(rotary_of, new)] == [(YARN,)] * 34
    assert [layer[1] for layer in new] == [layer[1] for layer in own]


# model -> layers that keep what they have
APART = {
    "gemma-3-1b": [i for i in range(26) if i % 6 != 5],
    "modernbert-base": [i for i in range(22) if i % 3],
    # one rope in all layers, whatever slides
    "gpt-oss-20b": [],
    "gemma-2-9b": [],
    "smollm3-3b": [i for i in range(36) if i % 4 == 3],
    # sliding layers are the ones that rotate
    "cohere-r7b": [i for i in range(32) if i % 4 == 3],
}


@pytest.mark.parametrize("name", APART)
def test_sliding_layers_with_a_rope_of_their_own_keep_it(name: str) -> None:
    config = published(name)
    own = hf.read(config)
    new = placed(YARN, config, own)
    assert [i for i, (a, b) in enumerate(zip(own, new, strict=True)) if a == b] == APART[name]
    if name == "modernbert-base":
        return
    # the same by the metadata of the GGUF
    payload = converted(config)
    assert placed(YARN, payload, gguf.read(payload)) == new


def test_a_gguf_with_a_base_for_sliding_layers() -> None:
    payload = converted(published("gemma-2-9b"))
    payload["metadata"]["gemma2.rope.freq_base_swa"] = 5e5
    assert sum(reaching(payload)) == 21


def test_pairs_that_a_model_was_made_without_stay_still() -> None:
    own = every(rw.Proportional(0.25, 8.0))
    assert placed(YARN, LLAMA, own) == every(rw.Proportional(0.25), YARN)
    assert placed(rw.Proportional(0.5), LLAMA, own) == every(rw.Proportional(0.5))


def test_a_rotary_and_a_list() -> None:
    own = hf.read(LLAMA)
    assert placed(Rotary(128, 1e6), LLAMA, own) == (Rotary(128, 1e6),) * 32
    mixed = [Rotary(128, 1e6), *[()] * 30, [Rotary(128), rw.LogN(8)]]
    assert placed(mixed, LLAMA, own) == (Rotary(128, 1e6), *[()] * 30, (Rotary(128), rw.LogN(8)))
    with pytest.raises(ConfigError, match="a list of encodings must be 32 long, one per layer, got 1"):
        placed([Rotary(128)], LLAMA, own)


def test_values_of_other_kinds() -> None:
    for value in (rw.Alibi(8), rw.Streaming(), 3, "Yarn", None):
        with pytest.raises(ConfigError, match="an encoding must be a scaling, a Rotary or a list of one per layer"):
            placed(value, LLAMA, hf.read(LLAMA))
    bert = published("bert-base")
    with pytest.raises(UnsupportedError, match=r"no layer of this model rotates: .* Yarn\(factor=2.0"):
        placed(YARN, bert, hf.read(bert))
