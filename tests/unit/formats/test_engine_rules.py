"""The reading rules of vLLM, SGLang and llama.cpp where they differ from those of transformers."""

import math
from typing import Any

import pytest
from stock import LENGTH, LLAMA, every, published, with_scaling

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf, llamacpp, sglang, vllm
from ropewalk.scalings.yarn import mscale


def test_vllm_reads_by_its_own_rules() -> None:
    def read(config: dict[str, Any] = LLAMA, **rope: Any) -> Any:
        return vllm.read({"rope_parameters": rope, "max_position_embeddings": LENGTH}, config)[0]

    assert read(rope_type="linear", factor=2.0).base == 10000.0
    assert read({**published("qwen3-0.6b"), "rope_theta": 5e6}, rope_type="linear", factor=2.0).base == 1e6
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
    with pytest.raises(UnsupportedError, match="rope_theta"):
        sglang.read({"rope_scaling": yarn}, LLAMA)


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
    with pytest.raises(UnsupportedError, match="do not reach layer 0"):
        llamacpp.write(everywhere, config, LENGTH)
    with pytest.raises(UnsupportedError, match="magnitude"):
        llamacpp.write(with_scaling(config, (rw.Yarn(2.0, 8192, magnitude=1.5),)), config, LENGTH)


def test_llamacpp_keeps_deepseeks_weight() -> None:
    config = published("deepseek-v3")

    def notes(rule: rw.Yarn) -> tuple[str, ...]:
        return llamacpp.write((Rotary(64, 1e4, (rule,), "interleaved"),) * 61, config, 163840)[1]

    assert notes(rw.Yarn(20.0, 4096, mscale=1.0, mscale_all_dim=1.0)) == ()
    lost = "llama.cpp's factor on the softmax scale (mscale_all_dim) is 1.68889 instead of 1"
    assert notes(rw.Yarn(20.0, 4096)) == (lost,)
    plain = {**config, "rope_scaling": {**config["rope_scaling"], "mscale": None, "mscale_all_dim": None}}
    assert llamacpp.read({"flags": []}, plain)[0].spectrum().magnitude == mscale(40.0)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'novel' is not known here"):
        llamacpp.write(every(), {**LLAMA, "model_type": "novel"}, LENGTH)
