"""The doctor finds what users found: each mistake from a real thread, and each documented disagreement of engines."""

import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from stock import CONFIGS, published

from ropewalk.errors import ConfigError, RopewalkError, UnsupportedError
from ropewalk.formats.doctor import Diagnosis, Finding, diagnose, diagnose_gguf
from ropewalk.formats.readings import READINGS

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def llama(rope: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {**LLAMA, **changes, **({"rope_scaling": rope} if rope else {})}


def about(found: Diagnosis, name: str) -> list[Finding]:
    return [finding for finding in found.findings if finding.about == name]


def only(found: Diagnosis, name: str) -> Finding:
    (finding,) = about(found, name)
    return finding


def sound(config: dict[str, Any], **options: Any) -> list[str]:
    return [engine for engine in READINGS if diagnose(config, engine, **options).sound]


def recommended(factor: float, weight: float = 1.0) -> float:
    return 0.1 * weight * math.log(factor) + 1


def test_a_plain_yarn_is_sound_everywhere() -> None:
    config = llama(YARN)
    assert sound(config) == list(READINGS)
    found = diagnose(config, "vllm")
    (part,) = found.parts
    assert part.layers == (0, 1)
    assert part.magnitude == pytest.approx(recommended(4.0))
    # c(r) = d ln(L0 / 2 pi r) / 2 ln theta, rounded outwards
    low, high = (128 * math.log(32768 / (2 * math.pi * turns)) / (2 * math.log(1e6)) for turns in (32, 1))
    assert part.ramp == (math.floor(low), math.ceil(high))
    assert part.inv_freq[0] == 1.0
    assert part.inv_freq[-1] == pytest.approx(1e6 ** (-126 / 128) / 4, rel=1e-12)
    assert found.limits[0][0] == 131072


# --- documented disagreements


@pytest.mark.parametrize("length", [32768, 131072, 2**20])
def test_d1_rounding_of_angles(length: int) -> None:
    """The figure is that of tables built in float32 as transformers builds them, up to the last bits of a power."""
    config = llama(rope_theta=5e5, max_position_embeddings=length)
    inv = 1.0 / (5e5 ** (torch.arange(0, 128, 2, dtype=torch.int64).float() / 128))
    at = torch.arange(length - 1024, length)
    exact = at.double()[:, None] * 5e5 ** (-torch.arange(0, 128, 2).double() / 128)
    worst = ((at.float()[:, None] * inv).double().cos() - exact.cos()).abs().max().item()
    direct, stepwise = (diagnose(config, engine) for engine in ("vllm", "llamacpp"))
    assert worst / 2 < direct.cosine_error < 2 * worst
    assert stepwise.cosine_error > direct.cosine_error
    assert bool(about(stepwise, "precision")) == (stepwise.cosine_error > 0.01)


def test_d1_at_ten_million_tokens_is_told() -> None:
    finding = only(diagnose(llama(rope_theta=5e5), "vllm", length=10**7), "precision")
    assert not finding.wrong


def test_d2_the_ramp_of_gpt_oss() -> None:
    config = published("gpt-oss-20b")
    low, high = diagnose(config, "hf").parts[0].ramp or (0.0, 0.0)
    assert (low, high) == pytest.approx((8.093, 17.398), abs=5e-4)
    assert sound(config) == ["hf", "vllm", "sglang"]
    for engine in ("llamacpp", "mlx"):
        found = diagnose(config, engine)
        assert found.parts[0].ramp == (8, 18)
        assert "76.3 %" in only(found, "differs").text


@pytest.mark.parametrize("factor", [4.0, 16.0, 64.0])
def test_d3_logits_get_the_square_of_the_magnitude(factor: float) -> None:
    config = llama({**YARN, "factor": factor}, max_position_embeddings=int(32768 * factor))
    for engine in READINGS:
        assert diagnose(config, engine).parts[0].magnitude == pytest.approx(recommended(factor), rel=1e-12)
    rounded = {4.0: 1.1386, 16.0: 1.2773, 64.0: 1.4159}
    assert recommended(factor) == pytest.approx(rounded[factor], abs=5e-5)


def test_d4_a_weight_of_zero() -> None:
    config = llama({**YARN, "mscale": 0.0, "mscale_all_dim": 1.0})
    assert only(diagnose(config, "hf"), "zero weight").text.startswith("mscale = 0 is missing for transformers")
    assert diagnose(config, "hf").sound
    found = diagnose(config, "sglang")
    assert found.parts[0].magnitude == pytest.approx(1 / recommended(4.0))
    assert only(found, "differs").wrong


def test_d5_the_border_between_two_lists() -> None:
    config = published("phi-3-mini-128k")
    assert diagnose(config, "hf").sound
    # SGLang switches one token later; vLLM, llama.cpp and MLX-LM have chosen before they see a text
    assert "in texts of 4,097 tokens" in only(diagnose(config, "sglang"), "differs").text
    for engine in ("vllm", "llamacpp", "mlx"):
        found = diagnose(config, engine)
        assert "in texts of 4,096 tokens" in only(found, "differs").text
        assert "LongRope follows the length of each text" in only(found, "dynamic scaling").text


def test_d6_the_magnitude_of_a_partial_rotary() -> None:
    finding = only(diagnose(published("phi-4-mini"), "vllm"), "partial magnitude")
    magnitude = math.sqrt(1 + math.log(131072 / 4096) / math.log(4096))
    assert f"{magnitude:.6g} scales 96 of 128 channels" in finding.text
    assert f"{magnitude**2:.6g} instead scales all" in finding.text


# --- mistakes of users


def test_1_attn_factor_is_not_attention_factor() -> None:
    config = llama({**YARN, "attn_factor": 0.878})
    for engine in ("hf", "vllm", "llamacpp", "mlx"):
        finding = only(diagnose(config, engine), "unknown key")
        assert finding.wrong
        assert "'attn_factor' = 0.878" in finding.text
        assert "attention_factor is the final magnitude" in finding.text
    found = diagnose(config, "sglang")
    assert found.parts[0].magnitude == pytest.approx(0.878 * recommended(4.0))
    assert only(found, "differs").wrong
    # a multiplier of 1 is no reason to stop
    assert sound(llama({**YARN, "attn_factor": 1.0})) == list(READINGS)
    both = diagnose(llama({**YARN, "attn_factor": 0.878, "attention_factor": 1.0}), "vllm")
    assert only(both, "two magnitudes").wrong


def test_1_attention_factor_is_passed_over_by_some() -> None:
    config = llama({**YARN, "attention_factor": 1.0})
    assert sound(config) == ["hf", "vllm"]
    for engine in ("sglang", "llamacpp", "mlx"):
        found = diagnose(config, engine)
        assert found.parts[0].magnitude == pytest.approx(recommended(4.0))
        assert only(found, "ignored key").wrong
        assert "magnitude of 1.13863 instead of 1" in only(found, "differs").text


def test_2_both_weights_make_one() -> None:
    """Ministral 3: mscale = mscale_all_dim = 1 at a factor of 16 is a magnitude of 1, not 1.277."""
    config = llama(
        {**YARN, "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 8192}
    )
    assert sound(config) == ["hf", "vllm", "sglang", "mlx"]
    for engine in ("hf", "vllm", "sglang", "mlx"):
        assert diagnose(config, engine).parts[0].magnitude == pytest.approx(1.0)
    found = diagnose(config, "llamacpp")
    assert found.parts[0].magnitude == pytest.approx(recommended(16.0))
    assert "magnitude of 1.27726 instead of 1" in only(found, "differs").text


def test_3_an_unrounded_ramp() -> None:
    config = llama({**YARN, "truncate": False})
    assert sound(config) == ["hf", "vllm", "sglang"]
    assert "'truncate'" in only(diagnose(config, "mlx"), "ignored key").text


def test_3_a_nested_truncate_is_missed_by_transformers() -> None:
    rope = {**YARN, "rope_theta": 1e6, "truncate": False}
    config = {
        **{key: value for key, value in LLAMA.items() if key != "rope_theta"},
        "model_type": "olmo3",
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 1e6}},
    }
    found = diagnose(config, "hf")
    assert "inside a layer type" in only(found, "ignored key").text
    assert only(found, "differs").text.startswith("in texts of any length layer 1, pair")
    rope["truncate"] = True
    assert diagnose(config, "hf").sound


def test_5_the_ramp_of_m_rope_in_vllm() -> None:
    config = {**published("qwen2.5-vl-7b"), "max_position_embeddings": 131072}
    config["rope_scaling"] = {"mrope_section": [16, 24, 24], "rope_theta": 1e6, **YARN}
    assert diagnose(config, "hf").parts[0].ramp == (23, 40)
    found = diagnose(config, "vllm")
    assert found.parts[0].ramp == (30, 47)
    assert "124 %" in only(found, "differs").text
    (part,) = found.parts
    apart = [got / want - 1 for got, want in zip(part.inv_freq, part.wanted, strict=True)]
    assert sum(abs(difference) > 0.01 for difference in apart) == 23
    assert diagnose(config, "sglang").sound


def test_8_short_texts_pay_for_a_static_scaling() -> None:
    finding = only(diagnose(llama(YARN), "vllm"), "static scaling")
    assert not finding.wrong
    assert "texts of up to 32,768 tokens are bent too" in finding.text
    # the most that a logit changes is at least what the magnitude alone changes
    change = float(finding.text.split("by up to ")[1].split(" ")[0])
    assert change > recommended(4.0) ** 2 - 1
    assert not about(diagnose(llama(), "vllm"), "static scaling")


def test_9_which_length_is_the_original() -> None:
    silent = only(diagnose(llama({"rope_type": "yarn", "factor": 4.0}), "vllm"), "no original length")
    assert "131072 (max_position_embeddings) counts as the trained length" in silent.text
    contrary = only(diagnose(llama({**YARN, "factor": 8.0}), "vllm"), "factor and lengths")
    assert "8 x 32,768 = 262,144 tokens, but max_position_embeddings says 131,072" in contrary.text
    again = llama({**YARN, "original_max_position_embeddings": 131072})
    assert "is scaled twice" in only(diagnose(again, "vllm"), "factor and lengths").text
    assert not about(diagnose(llama(YARN), "vllm"), "factor and lengths")


def test_9_an_engine_that_ends_too_early() -> None:
    config = llama(YARN)
    refused = only(diagnose(config, "vllm", length=262144), "too long")
    assert refused.wrong
    assert "vLLM has angles for 131,072 positions, not for 262,144" in refused.text
    short = llama(YARN, max_position_embeddings=32768)
    assert "vLLM refuses more than 32,768 tokens" in only(diagnose(short, "vllm", length=131072), "too long").text
    assert not only(diagnose(llama(), "hf", length=262144), "too long").wrong
    # what vLLM multiplies although the config has been multiplied
    linear = llama({"rope_type": "linear", "factor": 4.0})
    assert {name: n for n, name in diagnose(linear, "vllm").limits}["vLLM accepts"] == 4 * 131072


def test_10_a_lost_base() -> None:
    v5 = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    found = diagnose({**v5, "rope_parameters": YARN}, "hf")
    assert "rope_theta is missing; 10000 is taken" in only(found, "no rope_theta").text
    assert not about(diagnose({**v5, "rope_parameters": {**YARN, "rope_theta": 1e6}}, "hf"), "no rope_theta")


def test_10_an_override_that_loses_the_base() -> None:
    override = {"rope_parameters": YARN}
    found = diagnose(llama(), "vllm", override=override)
    assert "vLLM stops without 'rope_theta'" in only(found, "stops").text
    assert not found.sound
    assert found.limits == ()
    assert diagnose(llama(), "vllm", override={"rope_parameters": {**YARN, "rope_theta": 1e6}}).sound
    assert diagnose(llama(), "sglang", override={"rope_scaling": YARN}).sound


def test_11_an_override_of_the_wrong_object() -> None:
    config = {"model_type": "gemma3", "text_config": published("gemma-3-1b")}
    override = {"rope_parameters": {**YARN, "rope_theta": 1e6}}
    found = diagnose(config, "vllm", override=override)
    assert "no effect on text_config" in only(found, "wrong object").text
    assert only(found, "differs").wrong
    outside = diagnose({**config, "rope_theta": 5e6}, "hf")
    assert "rope_theta stands beside text_config" in only(outside, "wrong object").text


@pytest.mark.parametrize("engine", READINGS)
def test_13_weights_in_the_other_order(engine: str) -> None:
    finding = only(diagnose(llama(), engine, weights="interleaved"), "pairing")
    assert finding.wrong
    assert "ropewalk convert --to half" in finding.text
    assert diagnose(llama(), engine, weights="half").sound


def test_14_a_partial_rotary_that_is_lost() -> None:
    config = llama(partial_rotary_factor=0.5)
    assert len(diagnose(config, "hf").parts[0].inv_freq) == 32
    found = diagnose(config, "mlx")
    assert len(found.parts[0].inv_freq) == 64
    assert "dim 128 instead of 64" in only(found, "differs").text
    assert "'partial_rotary_factor'" in only(found, "ignored key").text


def test_14_two_partial_rotaries() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
    finding = only(diagnose(llama(rope, partial_rotary_factor=0.5), "hf"), "partial rotary")
    assert "0.25 inside the rope parameters and 0.5 outside" in finding.text


# --- the rest of the lint


def test_types_that_contradict() -> None:
    finding = only(diagnose(llama({**YARN, "type": "linear"}), "hf"), "two types")
    assert finding.wrong
    assert not diagnose(llama({"factor": 4.0}), "hf").sound
    assert (
        "rope_type is missing, so factor has no effect" in only(diagnose(llama({"factor": 4.0}), "hf"), "no type").text
    )
    old = {"type": "linear", "factor": 4.0}
    assert diagnose(llama(old), "hf").sound


def test_misspelt_keys() -> None:
    finding = only(diagnose(llama({**YARN, "beta_fats": 16.0}), "vllm"), "unknown key")
    assert finding.wrong
    assert "did you mean 'beta_fast'?" in finding.text


def test_two_dicts_that_differ() -> None:
    config = llama(YARN, rope_parameters={**YARN, "factor": 8.0, "rope_theta": 1e6})
    assert "differ in factor" in only(diagnose(config, "hf"), "two dicts").text
    same = llama({**YARN, "rope_theta": 1e6}, rope_parameters={**YARN, "rope_theta": 1e6})
    assert diagnose(same, "hf").sound


def test_a_raised_base_under_a_scaling() -> None:
    raised = 10000 * 4.0 ** (128 / 126)
    finding = only(diagnose(llama(YARN, rope_theta=raised), "hf"), "double scaling")
    assert "NTK by 4 from 10000" in finding.text
    override = {"rope_parameters": {**YARN, "rope_theta": 5e6}}
    finding = only(diagnose(llama(), "vllm", override=override), "double scaling")
    assert "from 1e+06 to 5e+06" in finding.text
    for base in (10000.0, 500000, 1e6, 150000, 8000000.0):
        assert not about(diagnose(llama(YARN, rope_theta=base), "hf"), "double scaling")


def test_a_dynamic_scaling_is_static_elsewhere() -> None:
    config = llama({"rope_type": "dynamic", "factor": 2.0})
    assert "cached keys keep the angles" in only(diagnose(config, "hf", length=262144), "dynamic scaling").text
    for engine in ("vllm", "sglang", "llamacpp"):
        found = diagnose(config, engine, length=262144)
        assert "DynamicNTK follows the length of each text" in only(found, "dynamic scaling").text
        assert not found.sound


def test_deepseeks_factor_on_the_softmax() -> None:
    config = published("deepseek-v3")
    for engine in READINGS:
        assert diagnose(config, engine).softmax == pytest.approx(recommended(40.0) ** 2)
    config["rope_scaling"] = {**config["rope_scaling"], "attention_factor": 1.0}
    assert "multiplied by 1 instead of 1.87385" in only(diagnose(config, "vllm"), "softmax").text


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIGS.glob("*.json")))
@pytest.mark.parametrize("engine", READINGS)
def test_published_configs_are_read(name: str, engine: str) -> None:
    """Every engine gives a diagnosis or one line, and transformers computes what published configs say."""
    with suppress(UnsupportedError):
        found = diagnose(published(name), engine)
        assert found.sound or engine != "hf"
        assert all(finding.text.isprintable() for finding in found.findings)


def test_bad_input() -> None:
    with pytest.raises(UnsupportedError, match=r"engine 'vlm' is not one of .*; did you mean 'vllm'"):
        diagnose(llama(), "vlm")
    with pytest.raises(ConfigError, match="factor must be a number of at least 1, got 0"):
        diagnose(llama({**YARN, "factor": 0}), "vllm")
    for length in (0, 10**30, 1e30):
        with pytest.raises(ConfigError, match="length must be from 1 to"):
            diagnose(llama(), "vllm", length=length)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="config must be a JSON object"):
        diagnose([1], "vllm")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnsupportedError, match="takes no override"):
        diagnose(llama(), "mlx", override={"rope_scaling": YARN})
    with pytest.raises(UnsupportedError, match="is no rotation"):
        diagnose(published("bloom-560m"), "hf")


# --- GGUF files


def gguf(tensors: dict[str, list[float]] | None = None, **rope: Any) -> dict[str, Any]:
    about = {
        "block_count": 2,
        "context_length": 131072,
        "embedding_length": 4096,
        "attention.head_count": 32,
        "rope.freq_base": 1e6,
        **{f"rope.scaling.{key}": value for key, value in rope.items()},
    }
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in about.items()}}
    return {"metadata": metadata, "tensors": tensors or {}}


SCALED: dict[str, Any] = {"type": "yarn", "factor": 4.0, "original_context_length": 32768}


def test_a_plain_gguf() -> None:
    found = diagnose_gguf(gguf(**SCALED))
    assert found.sound
    assert found.parts[0].magnitude == pytest.approx(recommended(4.0))
    assert [finding.about for finding in found.findings if finding.wrong] == []


@pytest.mark.parametrize(("key", "value"), [("yarn_beta_fast", 16.0), ("yarn_attn_factor", 0.5)])
def test_gguf_keys_that_the_architecture_does_not_read(key: str, value: float) -> None:
    found = diagnose_gguf(gguf(**SCALED, **{key: value}))
    assert not found.sound
    assert f"rope.scaling.{key} = {value:g}" in only(found, "ignored key").text
    default = {"yarn_beta_fast": 32.0, "yarn_attn_factor": 1.0}[key]
    assert diagnose_gguf(gguf(**SCALED, **{key: default})).sound


def test_gguf_lint() -> None:
    assert "is linear" in only(diagnose_gguf(gguf(factor=4.0)), "no type").text
    twice = diagnose_gguf(gguf({"rope_freqs.weight": [2.0] * 64}, type="linear", factor=4.0))
    assert "multiply" in only(twice, "double scaling").text
    silent = diagnose_gguf(gguf(type="yarn", factor=4.0))
    assert "context_length = 131,072 counts as trained" in only(silent, "no original length").text
    less = diagnose_gguf(gguf(**{**SCALED, "factor": 2.0}))
    assert "2 x 32,768 tokens are less than context_length = 131,072" in only(less, "factor and lengths").text
    with pytest.raises(ConfigError, match="yarn_beta_fast must be a number, got 'x'"):
        diagnose_gguf(gguf(**SCALED, yarn_beta_fast="x"))
    with pytest.raises(ConfigError, match="length must be from 1"):
        diagnose_gguf(gguf(**SCALED), length=0)
    with pytest.raises(RopewalkError, match="not known here"):
        diagnose_gguf({"metadata": {"general.architecture": "unheard"}, "tensors": {}})
