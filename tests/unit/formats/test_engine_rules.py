"""The reading rules of vLLM, SGLang and llama.cpp where they differ from those of transformers."""

import math
from typing import Any

import pytest
from stock import LENGTH, LLAMA, every, published, with_scaling

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf, llamacpp, sglang, vllm
from ropewalk.formats.compare import disagreement
from ropewalk.formats.losses import Loss
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import for_length


def test_vllm_reads_by_its_own_rules() -> None:
    def read(config: dict[str, Any] = LLAMA, **rope: Any) -> Any:
        return vllm.read({"rope_parameters": rope, "max_position_embeddings": LENGTH}, config)[0]

    # a flat override replaces the dict, and the base with it
    with pytest.raises(UnsupportedError, match="vLLM stops without 'rope_theta'"):
        read(rope_type="linear", factor=2.0)
    yarn = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0, "original_max_position_embeddings": 8192}
    assert read(**yarn, attn_factor=0.5, extrapolation_factor=2.0) == Rotary(128, 5e5, (rw.Yarn(2.0, 8192),))
    assert read(**yarn, mscale=0, mscale_all_dim=1.0).spectrum().magnitude == mscale(2.0)
    dynamic = {"rope_type": "dynamic", "rope_theta": 5e5, "factor": 2.0}
    assert read(**dynamic).spectrum() == Rotary(128, 5e5).spectrum()
    assert read(**dynamic, max_trained_positions=8192).scaling == (rw.NTK(3.0),)
    slowed = {"rope_type": "proportional", "rope_theta": 5e5, "partial_rotary_factor": 0.5, "factor": 4.0}
    assert read(**slowed).scaling == (rw.Proportional(0.5),)
    lists = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64, "attention_factor": 3.0, "factor": 9.0}
    long = read(rope_type="longrope", rope_theta=5e5, original_max_position_embeddings=8192, **lists).scaling[0]
    assert long.short_factor == (2.0,) * 64
    assert math.isclose(long.effective_magnitude(), math.sqrt(1 + math.log(2) / math.log(8192)))


def test_vllm_computes_deepseeks_magnitude_from_the_weights_alone() -> None:
    config = published("deepseek-v3")
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 4096}

    def magnitude(**rope: Any) -> float:
        return vllm.read({"rope_parameters": {**yarn, **rope}}, config)[0].spectrum().magnitude

    assert magnitude(attention_factor=1.5) == mscale(40.0)
    assert math.isclose(magnitude(mscale=0.5, mscale_all_dim=1.0), mscale(40.0, 0.5) / mscale(40.0), rel_tol=1e-15)


def test_sglang_reads_by_its_own_rules() -> None:
    def read(**rope: Any) -> Any:
        return sglang.read({"rope_scaling": {"rope_theta": 5e5, **rope}, "max_position_embeddings": LENGTH}, LLAMA)[0]

    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8192}
    assert read(**yarn, attention_factor=3.0).spectrum().magnitude == mscale(2.0)
    assert read(**yarn, attn_factor=0.5).spectrum().magnitude == 0.5 * mscale(2.0)
    assert read(**yarn, mscale=0, mscale_all_dim=1.0).spectrum().magnitude == 1 / mscale(2.0)
    assert read(rope_type="yarn").scaling[0].factor == 1.0
    assert read(rope_type="dynamic", factor=3.0).scaling == (rw.NTK(7.0),)
    own = published("deepseek-v3")
    unrounded = {**own["rope_scaling"], "rope_type": "yarn", "rope_theta": 1e4, "truncate": False}
    assert sglang.read({"rope_scaling": unrounded}, own)[0].scaling[0].truncate is True
    # a flat override is laid over the model's parameters, that of a part replaces them
    laid = Rotary(128, 5e5, (rw.Yarn(2.0, 8192, magnitude=mscale(2.0)),))
    assert sglang.read({"rope_scaling": yarn}, LLAMA)[0] == laid
    with pytest.raises(UnsupportedError, match="SGLang stops without 'rope_theta'"):
        sglang.read({"text_config": {"rope_scaling": yarn}}, {"model_type": "llava", "text_config": LLAMA})
    linear = for_length(read(**yarn, extrapolation_factor=0.0), LENGTH)
    assert linear.spectrum().inv_freq == Rotary(128, 5e5, (rw.Linear(2.0),)).spectrum().inv_freq


def test_llamacpp_reads_by_its_own_rules() -> None:
    def read(line: str, config: dict[str, Any] = LLAMA) -> Any:
        return llamacpp.read({"flags": line.split(), "tensors": {}}, config)[0]

    unrounded = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096, "truncate": False}
    config = {**LLAMA, "rope_scaling": {**unrounded, "attention_factor": 1.5}}
    assert read("", config).spectrum() == Rotary(128, 5e5, (rw.Yarn(2.0, 4096),)).spectrum()
    yarn = "--rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 4096"
    assert read(f"{yarn} --yarn-attn-factor 3").spectrum().magnitude == mscale(4.0)
    assert read("--rope-scaling linear --rope-scale 2 --yarn-attn-factor 3").spectrum().magnitude == 3.0
    assert read("--rope-scaling linear --rope-freq-scale 0.25").scaling == (rw.Linear(4.0),)
    assert read("--rope-scaling none", config).spectrum() == Rotary(128, 5e5).spectrum()
    # the divisors of Llama 3.1 are in the file, whatever the flags say
    own = published("llama-3.1-8b")
    baked = hf.read(own)[0].spectrum().inv_freq
    assert read("--rope-scaling none", own).spectrum().inv_freq == pytest.approx(baked, rel=1e-14)
    halved = [f / 2 for f in baked]
    assert read("--rope-scaling linear --rope-scale 2", own).spectrum().inv_freq == pytest.approx(halved, rel=1e-14)
    # dynamic scaling is dropped by the converter
    assert read("", {**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}).scaling == ()


def test_llamacpp_leaves_sliding_layers_alone() -> None:
    config = published("gemma-3-1b")
    everywhere = tuple(Rotary(256, e.base, (rw.Linear(2.0),)) for e in hf.read(config))
    with pytest.raises(UnsupportedError, match=r"do not reach all sliding layers of gemma3.*layer 0, pair 0"):
        llamacpp.write(everywhere, config, LENGTH)
    with pytest.raises(UnsupportedError, match="magnitude"):
        llamacpp.write(with_scaling(config, (rw.Yarn(2.0, 8192, magnitude=1.5),)), config, LENGTH)


def test_llamacpp_keeps_deepseeks_weight() -> None:
    config = published("deepseek-v3")

    def notes(rule: rw.Yarn) -> tuple[Loss, ...]:
        return llamacpp.write((Rotary(64, 1e4, (rule,), "interleaved"),) * 61, config, 163840)[1]

    assert notes(rw.Yarn(20.0, 4096, mscale=1.0, mscale_all_dim=1.0)) == ()
    # the magnitude that is asked for reaches the softmax too, squared and on top of the weight in the file
    (lost,) = notes(rw.Yarn(20.0, 4096))
    assert (lost.what, lost.instead) == ("a factor of 1 on the softmax scale (mscale_all_dim)", "a factor of 2.85235")
    assert math.isclose(lost.logits, mscale(20.0) ** 4 - 1, rel_tol=1e-9)
    plain = {**config, "rope_scaling": {**config["rope_scaling"], "mscale": None, "mscale_all_dim": None}}
    assert llamacpp.read({"flags": []}, plain)[0].spectrum().magnitude == mscale(40.0)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'novel' is not known here"):
        llamacpp.write(every(), {**LLAMA, "model_type": "novel"}, LENGTH)


def test_what_vllm_makes_of_a_config() -> None:
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096, "attn_factor": 0.8}
    found = vllm.effective({**LLAMA, "rope_scaling": {**yarn, "type": "yarn", "extrapolation_factor": 1.0}}, LENGTH)
    assert found.layers == (Rotary(128, 5e5, (rw.Yarn(2.0, 4096),)),) * 32
    names = ("attn_factor", "extrapolation_factor")
    assert found.ignored == tuple(f"vLLM does not read {name!r} with rope_type 'yarn'" for name in names)
    assert found.table == 8192
    assert vllm.effective({**LLAMA, "rope_scaling": {"type": "linear", "factor": 3.0}}, LENGTH).table == 3 * 8192
    assert vllm.effective(LLAMA, LENGTH).table == 8192
    assert vllm.effective(published("gpt-oss-20b"), LENGTH).ignored == ()


def test_vllm_chooses_between_lists_by_the_length_it_is_served_with() -> None:
    config = published("phi-3-mini-128k")
    short, long = (vllm.effective(config, length).layers[0].scaling[0] for length in (4096, 4097))
    own = hf.read(config)[0].scaling[0]
    assert (short.long_factor, long.short_factor) == (own.short_factor, own.long_factor)
    # the magnitude follows the config, not the length that is served
    assert short.magnitude == long.magnitude == pytest.approx(own.effective_magnitude(), rel=1e-12)


def test_vllm_takes_attention_factor_1_for_another_rule_in_deepseek() -> None:
    config = published("deepseek-v3")
    plain = vllm.effective(config, 163840).layers[0]
    rope = {**config["rope_scaling"], "attention_factor": 1.0}
    other = vllm.effective({**config, "rope_scaling": rope}, 163840).layers[0]
    assert plain.spectrum() == other.spectrum()
    assert (hf.softmax_factor(plain), hf.softmax_factor(other)) == (mscale(40.0) ** 2, 1.0)


def test_what_sglang_makes_of_a_config() -> None:
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096, "attention_factor": 1.5}
    found = sglang.effective({**LLAMA, "rope_scaling": yarn}, LENGTH)
    assert found.layers[0].spectrum().magnitude == mscale(2.0)
    assert found.ignored == ("SGLang does not read 'attention_factor' with rope_type 'yarn'",)
    assert found.table is None
    lists = sglang.effective(published("phi-3-mini-128k"), 131072)
    own = hf.read(published("phi-3-mini-128k"))
    assert lists.table == 131072
    # one token later than transformers
    lengths = (4096, 4097, 4098)
    differ = [disagreement(own, lists.layers, length) is not None for length in lengths]
    assert differ == [False, True, False]


@pytest.mark.parametrize("engine", [vllm, sglang], ids=lambda m: m.__name__.split(".")[-1])
def test_an_override_outside_the_part_that_it_is_for_does_nothing(engine: Any) -> None:
    config = {"model_type": "llava", "text_config": LLAMA}
    name = "rope_parameters" if engine is vllm else "rope_scaling"
    payload = {name: {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}
    assert engine.read(payload, config)[0] == Rotary(128, 5e5)
    assert engine.read({"text_config": payload}, config)[0] == Rotary(128, 5e5, (rw.Linear(4.0),))
    with pytest.raises(UnsupportedError, match="this config has none"):
        engine.read({"text_config": payload}, LLAMA)


@pytest.mark.parametrize("engine", [vllm, sglang], ids=lambda m: m.__name__.split(".")[-1])
def test_deepseeks_class_runs_every_type_as_yarn(engine: Any) -> None:
    config = {**published("deepseek-v3"), "rope_scaling": {"type": "linear", "factor": 4.0}}
    got = engine.effective(config, 163840).layers[0]
    assert got.spectrum() == Rotary(64, 1e4, (rw.Yarn(4.0, 163840),), "interleaved").spectrum()


def test_the_outer_original_length_wins() -> None:
    config = {**LLAMA, "original_max_position_embeddings": 4096}
    for engine, name in ((vllm, "rope_parameters"), (sglang, "rope_scaling")):
        yarn = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0, "original_max_position_embeddings": 2048}
        assert engine.read({name: yarn}, config)[0].scaling[0].trained_length == 4096
        payload, losses = engine.write(every(rw.Yarn(2.0, 2048)), config, 4096)
        assert losses == ()
        assert engine.read(payload, config)[0].scaling[0].trained_length == 2048
