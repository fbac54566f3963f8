"""One config.json under the rules of every engine: what each computes, and what it passes over."""

import math
from typing import Any

import pytest
from stock import LENGTH, LLAMA, ROTARY, every, published

import ropewalk as rw
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.compare import disagreement
from ropewalk.formats.readings import READINGS, effective
from ropewalk.scalings.yarn import mscale

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


def magnitudes(**rope: Any) -> dict[str, float]:
    config = {**LLAMA, "rope_scaling": {**YARN, **rope}}
    return {name: effective(name, config, LENGTH).layers[0].spectrum().magnitude for name in READINGS}


def ignored(config: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: effective(name, config, LENGTH).ignored for name in READINGS}


def test_a_plain_yarn_is_the_same_everywhere() -> None:
    own = mscale(4.0)
    assert magnitudes() == pytest.approx(dict.fromkeys(READINGS, own), rel=1e-12)
    assert ignored({**LLAMA, "rope_scaling": YARN}) == dict.fromkeys(READINGS, ())


def test_one_name_for_the_magnitude_is_read_by_each() -> None:
    own = mscale(4.0)
    final = dict.fromkeys(("hf", "vllm"), 1.5) | dict.fromkeys(("sglang", "llamacpp", "mlx"), own)
    assert magnitudes(attention_factor=1.5) == pytest.approx(final, rel=1e-12)
    extra = dict.fromkeys(READINGS, own) | {"sglang": 0.5 * own}
    assert magnitudes(attn_factor=0.5) == pytest.approx(extra, rel=1e-12)
    told = ignored({**LLAMA, "rope_scaling": {**YARN, "attention_factor": 1.5, "attn_factor": 0.5}})
    unread = {
        name: sorted(word for word in ("attention_factor", "attn_factor") if word in str(told[name])) for name in told
    }
    assert unread == {
        "hf": ["attn_factor"],
        "vllm": ["attn_factor"],
        "sglang": ["attention_factor"],
        "llamacpp": ["attention_factor", "attn_factor"],
        "mlx": ["attention_factor", "attn_factor"],
    }


def test_a_weight_of_zero_is_missing_or_given() -> None:
    own = mscale(4.0)
    missing = dict.fromkeys(("hf", "vllm", "llamacpp"), own) | dict.fromkeys(("sglang", "mlx"), 1 / own)
    assert magnitudes(mscale=0.0, mscale_all_dim=1.0) == pytest.approx(missing, rel=1e-12)


def test_an_unrounded_ramp_is_rounded_by_some() -> None:
    config = {**LLAMA, "rope_scaling": {**YARN, "truncate": False}}
    rounded = [
        name for name in READINGS if disagreement(hf.read(config), effective(name, config, LENGTH).layers, LENGTH)
    ]
    assert rounded == ["llamacpp", "mlx"]
    assert [name for name, told in ignored(config).items() if "truncate" in str(told)] == ["llamacpp", "mlx"]


def test_dynamic_scaling_is_another_rule_everywhere() -> None:
    config = {**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    slowest = {name: effective(name, config, LENGTH).layers for name in READINGS}
    plain = every()[0].spectrum().inv_freq[-1]
    bent = {n: math.log(plain / rw.for_length(e[0], LENGTH).spectrum().inv_freq[-1], 2) for n, e in slowest.items()}
    # 1 + 2 (16384 / 8192 - 1) = 3 where the length is followed, 2^2 - 2 + 1 = 3 in one table, and 1 elsewhere
    three = math.log(3, 2)
    want = {"hf": three, "vllm": 0.0, "sglang": three, "llamacpp": 0.0, "mlx": three}
    assert bent == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert "passes over rope_type 'dynamic'" in str(ignored(config)["llamacpp"])


@pytest.mark.parametrize("name", ROTARY)
def test_published_models_are_read_by_every_engine_that_runs_them(name: str) -> None:
    config = published(name)
    for engine in ("hf", "vllm", "sglang"):
        found = effective(engine, config, LENGTH)
        assert disagreement(hf.read(config), found.layers, LENGTH) is None
        assert found.ignored == ()


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"engine 'vlm' is not one of hf, vllm, .*; did you mean 'vllm'"):
        effective("vlm", LLAMA, LENGTH)


def test_a_key_that_says_nothing_is_not_told() -> None:
    # the value that is taken anyway, and a weight that does nothing alone
    config = {**LLAMA, "rope_scaling": {**YARN, "beta_fast": 32.0, "mscale": 1.0}}
    assert ignored(config) == dict.fromkeys(READINGS, ())
