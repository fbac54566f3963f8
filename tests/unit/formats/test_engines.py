"""vLLM, SGLang, llama.cpp: what is written is read back under the engine's own rules, or a note says what is lost."""

import json
import math
import re
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from stock import CONFIGS, LENGTH, LLAMA, ROTARY, every, published, scalings, with_scaling

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import RopewalkError, UnsupportedError
from ropewalk.formats import hf, llamacpp, sglang, vllm
from ropewalk.formats.compare import disagreement
from ropewalk.formats.engines import ENGINES, engine_files, written
from ropewalk.formats.readings import READINGS, effective
from ropewalk.scalings.yarn import mscale

OUTSIDE = ("gpt-oss-20b",)  # models whose sliding layers llama.cpp's flags do not reach
REFUSALS = {
    vllm: "only for channels paired in halves|DeepSeek class always rounds|this reader does not take|code of gpt_oss",
    sglang: "only for channels paired in halves|DeepSeek class always rounds|this reader does not take",
    llamacpp: "no tensor for divisors per pair|sliding layers",
}


@pytest.mark.parametrize("engine", [vllm, sglang, llamacpp], ids=lambda m: m.__name__.split(".")[-1])
@pytest.mark.parametrize("name", ROTARY)
def test_every_scaling_survives_or_is_refused(engine: ModuleType, name: str) -> None:
    config = published(name)
    pairs = next(e for e in hf.read(config) if e != ()).dim // 2
    refused = {}
    for scaling in scalings(pairs, 4096):
        encodings = with_scaling(config, scaling)
        try:
            payload, _ = engine.write(encodings, config, LENGTH)
        except UnsupportedError as error:
            refused[scaling] = str(error)
            continue
        payload = json.loads(json.dumps(payload))
        assert disagreement(encodings, engine.read(payload, config), LENGTH) is None, scaling
    assert [why for why in refused.values() if not re.search(REFUSALS[engine], why)] == []
    if engine is llamacpp and name in OUTSIDE:
        assert len(refused) == len(scalings(pairs, 4096))
    else:
        plain = {(), (rw.NTK(4.0),), (rw.BaseChange(3e6),), (rw.Yarn(4.0, 4096),)}
        assert not refused.keys() & plain
        # DeepSeek's class runs every type as YaRN, and so does vLLM's gpt-oss
        yarn_only = (engine in (vllm, sglang) and name == "deepseek-v3") or (engine, name) == (vllm, "gpt-oss-20b")
        assert ((rw.Linear(2.0),) in refused) == yarn_only


@pytest.mark.parametrize("engine", [vllm, sglang], ids=lambda m: m.__name__.split(".")[-1])
def test_halves_carry_every_static_scaling_without_loss(engine: ModuleType) -> None:
    for scaling in scalings(64, 8192):
        _, notes = engine.write(every(*scaling), LLAMA, LENGTH)
        assert notes == (), scaling


# conversions, row by row


def test_linear() -> None:
    assert rope_of(vllm, rw.Linear(2.0)) == rope_of(sglang, rw.Linear(2.0))
    assert rope_of(vllm, rw.Linear(2.0)) == {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    assert flags(rw.Linear(2.0)) == "--rope-scaling linear --rope-scale 2 --rope-freq-base 500000 -c 16384"


def test_static_ntk_is_another_base() -> None:
    base = 5e5 * 4.0 ** (128 / 126)
    for engine in (vllm, sglang):
        rope = rope_of(engine, rw.NTK(4.0))
        assert rope["rope_type"] == "default"
        assert math.isclose(rope["rope_theta"], base, rel_tol=1e-12)
        alpha = {"rope_type": "dynamic", "alpha": 4.0, "rope_theta": 5e5}
        name = "rope_parameters" if engine is vllm else "rope_scaling"
        assert engine.read({name: alpha}, LLAMA) == every(rw.NTK(4.0))
    words = flags(rw.NTK(4.0)).split()
    assert words[:2] == ["--rope-scaling", "none"]
    assert math.isclose(float(words[3]), base, rel_tol=1e-12)


def test_plain_yarn() -> None:
    rule = rw.Yarn(2.0, 8192)
    for engine in (vllm, sglang):
        rope = rope_of(engine, rule)
        assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 2.0, 8192)
    want = "--rope-scaling yarn --rope-scale 2 --yarn-orig-ctx 8192 --yarn-beta-fast 32 --yarn-beta-slow 1 "
    assert flags(rule) == want + "--rope-freq-base 500000 -c 16384"


@pytest.mark.parametrize("magnitude", [1.0, 0.9 * mscale(2.0), 1.25])
def test_yarn_with_a_fixed_magnitude(magnitude: float) -> None:
    rule = rw.Yarn(2.0, 8192, magnitude=magnitude)
    assert rope_of(vllm, rule)["attention_factor"] == magnitude
    rope = rope_of(sglang, rule)
    assert math.isclose(rope["attn_factor"], magnitude / (1 + 0.1 * math.log(2)), rel_tol=1e-15)
    assert not {"attention_factor", "mscale", "mscale_all_dim"} & set(rope)
    key, value = flags(rule).split()[-3].split("=float:")
    assert key == "llama.rope.scaling.attn_factor"
    assert math.isclose(float(value), magnitude / (1 + 0.1 * math.log(2)), rel_tol=1e-15)


def test_yarn_without_rounding() -> None:
    rule = rw.Yarn(2.0, 8192, truncate=False)
    assert rope_of(vllm, rule)["truncate"] is False
    assert rope_of(sglang, rule)["truncate"] is False
    payload, notes = llamacpp.write(every(rule), LLAMA, LENGTH)
    assert "--rope-scaling none" in " ".join(payload["flags"])
    assert f"=float:{mscale(2.0)!r}" in " ".join(payload["flags"])
    assert len(payload["tensors"]["rope_freqs.weight"]) == 64
    assert len(notes) == 1
    assert "rope_freqs.weight" in str(notes[0])
    qwen = published("qwen3-0.6b")
    with pytest.raises(UnsupportedError, match="qwen3 has no tensor for divisors per pair"):
        llamacpp.write((Rotary(128, 1e6, (rule,)),) * 28, qwen, LENGTH)


def test_lists_of_divisors() -> None:
    rule = rw.Rescale(tuple(1 + i / 64 for i in range(64)), 1.1)
    rope = rope_of(vllm, rule)
    assert rope["rope_type"] == "longrope"
    assert (rope["short_mscale"], rope["long_mscale"]) == (1.1, 1.1)
    # no text may cross the length at which SGLang's table starts anew
    assert rope_of(sglang, rule)["original_max_position_embeddings"] == LENGTH
    payload, _ = llamacpp.write(every(rule), LLAMA, LENGTH)
    assert payload["tensors"]["rope_freqs.weight"] == pytest.approx(rule.factors, rel=1e-14)


def test_llama3() -> None:
    rule = rw.Llama3(8.0, 8192)
    assert rope_of(vllm, rule) == rope_of(sglang, rule)
    assert rope_of(vllm, rule)["rope_type"] == "llama3"
    assert llamacpp.write(every(rule), LLAMA, LENGTH)[0]["tensors"]
    own = published("llama-3.1-8b")
    payload, notes = llamacpp.write(hf.read(own), own, 131072)
    assert (payload["tensors"], notes) == ({}, ())


def test_two_lists_keep_their_switch_only_where_the_engine_has_one() -> None:
    config = published("phi-3-mini-128k")
    encodings = hf.read(config)
    for engine in (vllm, sglang, llamacpp):
        payload, notes = engine.write(encodings, config, 131072)
        assert len(notes) == 1
        assert disagreement(encodings, engine.read(payload, config), 131072) is None
    allocated, _ = llamacpp.write(encodings, config, 4096)
    assert disagreement(encodings, llamacpp.read(allocated, config), 4096) is None
    short = disagreement(encodings, vllm.read(vllm.write(encodings, config, 131072)[0], config), 4096)
    assert short is not None
    assert disagreement(encodings, sglang.read(sglang.write(encodings, config, 131072)[0], config), 4096) is None


@pytest.mark.parametrize("engine", [vllm, sglang, llamacpp], ids=lambda m: m.__name__.split(".")[-1])
@pytest.mark.parametrize("rule", [rw.DynamicNTK(2.0, 8192), rw.DynamicYarn(8192)], ids=repr)
def test_what_follows_the_length_is_frozen_and_told(engine: ModuleType, rule: Any) -> None:
    payload, notes = engine.write(every(rule), LLAMA, LENGTH)
    assert "frozen" in str(notes[0])
    assert disagreement(every(rule), engine.read(payload, LLAMA), LENGTH) is None


def test_types_that_the_engines_read_otherwise_are_avoided() -> None:
    for engine, name in ((vllm, "rope_parameters"), (sglang, "rope_scaling")):
        payload, notes = engine.write(every(rw.DynamicNTK(2.0, LENGTH)), LLAMA, LENGTH)
        # up to the length that it starts from it does nothing
        assert (payload[name]["rope_type"], notes) == ("default", ())
        slowed = every(rw.Proportional(0.5, 2.0))
        payload, notes = engine.write(slowed, LLAMA, LENGTH)
        assert (payload[name]["rope_type"], notes) == ("longrope", ())
        assert disagreement(slowed, engine.read(payload, LLAMA), LENGTH) is None


@pytest.mark.parametrize("engine", [vllm, sglang, llamacpp], ids=lambda m: m.__name__.split(".")[-1])
@pytest.mark.parametrize("name", ROTARY)
def test_without_overrides_published_models_mean_the_same(engine: ModuleType, name: str) -> None:
    config = published(name)
    if engine is llamacpp and name in OUTSIDE:
        # the ends of its ramp are not rounded, which llama.cpp always does
        assert "layer 0, pair 9" in (disagreement(hf.read(config), llamacpp.read({"flags": []}, config), 131072) or "")
    else:
        assert disagreement(hf.read(config), engine.read({"flags": []}, config), 131072) is None


def test_vllm_merges_into_a_part_of_a_config() -> None:
    ropes = {"full_attention": {"rope_type": "linear", "factor": 4.0}}
    got = vllm.read({"text_config": {"rope_parameters": ropes}}, published("gemma-3-4b"))
    assert got[4:6] == (Rotary(256, 1e4), Rotary(256, 1e6, (rw.Linear(4.0),)))


def test_m_rope_moves_the_ramp_of_vllm() -> None:
    config = {**LLAMA, "model_type": "qwen2_vl", "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    wanted = (replace(hf.read(config)[0], scaling=(rw.Yarn(2.0, 8192),)),) * 32
    payload, notes = vllm.write(wanted, config, LENGTH)
    assert "M-RoPE" in str(notes[0])
    ramps = [Rotary(128, 5e5, (rw.Yarn(2.0, length),)).spectrum().inv_freq for length in (8192, 4 * 8192)]
    assert math.isclose(notes[0].frequency, max(b / a - 1 for a, b in zip(*ramps, strict=True)), rel_tol=1e-12)
    assert payload["rope_parameters"]["mrope_section"] == [16, 24, 24]
    assert vllm.read(payload, config)[0].scaling[0].trained_length == 4 * 8192
    assert disagreement(wanted, vllm.read(payload, config), LENGTH) is not None
    payload, notes = sglang.write(wanted, config, LENGTH)
    assert notes == ()
    assert disagreement(wanted, sglang.read(payload, config), LENGTH) is None
    with pytest.raises(UnsupportedError, match="M-RoPE"):
        vllm.write((replace(wanted[0], scaling=(rw.NTKByParts(2.0, 8192),)),) * 32, config, LENGTH)


@pytest.mark.parametrize("engine", [vllm, sglang], ids=lambda m: m.__name__.split(".")[-1])
def test_axes_are_those_that_the_dict_names(engine: ModuleType) -> None:
    named = {"mrope_section": [24, 20, 20], "rope_type": "default"}
    config = {**LLAMA, "model_type": "qwen3_vl_text", "rope_scaling": named}
    # transformers interleaves them by model type
    assert hf.read(config)[0].layout == "interleaved"
    assert engine.effective(config, LENGTH).layers[0].layout == "chunked"
    payload, losses = engine.write(hf.read(config), config, LENGTH)
    assert losses == ()
    assert engine.read(payload, config) == hf.read(config)


def test_a_table_that_ends_early_is_told() -> None:
    _, notes = vllm.write(every(rw.Yarn(2.0, 4096)), LLAMA, LENGTH)
    assert [str(note) for note in notes] == ["vLLM's table for YaRN ends at 8192 tokens, before 16384"]


def test_a_part_of_a_config_is_overridden_in_place() -> None:
    config = published("gemma-3-4b")
    encodings = with_scaling(config, (rw.NTK(2.0),))
    for engine, name in ((vllm, "rope_parameters"), (sglang, "rope_scaling")):
        payload, _ = engine.write(encodings, config, 262144)
        assert set(payload) == {"text_config"}
        assert set(payload["text_config"]) == {name, "max_position_embeddings"}


def test_minicpm3_is_served_by_the_classes_of_other_models() -> None:
    """Its heads look like DeepSeek's; its code in both engines calls what Llama's does."""
    config = published("minicpm3-4b")
    own = hf.read(config)
    for engine in (vllm, sglang):
        assert engine.effective(config, 32768).layers == engine.read({}, config)
        assert disagreement(own, engine.read({}, config), 32768) is None
        for scaling in scalings(16, 32768):
            wanted = tuple(replace(e, scaling=scaling) for e in own)
            payload, losses = engine.write(wanted, config, LENGTH)
            assert disagreement(wanted, engine.read(payload, config), LENGTH) is None
            factor = hf.softmax_factor(wanted[0])
            # of their own accord, DeepSeek's classes alone put a factor on the softmax
            told = [loss for loss in losses if "softmax" in loss.what and "code of minicpm3" in loss.what]
            assert [loss.logits for loss in told] == ([abs(factor - 1)] if factor != 1 else [])


LEAST = {"hf": 40, "vllm": 33, "sglang": 33, "llamacpp": 27, "gguf": 28, "mlx": 22}
STILL = set("bert-base bloom-560m falcon-rw-1b gpt2 mpt-7b opt-125m roberta-base t5-small".split())


@pytest.mark.parametrize("engine", ENGINES)
def test_every_published_config_is_served_or_refused_in_one_line(engine: str) -> None:
    served, refusals = set(), []
    for file in sorted(CONFIGS.glob("*.json")):
        config = published(file.stem)
        own = hf.read(config)
        try:
            payload, losses = written(engine, own, config, 512)
            json.dumps([payload, losses])
            served.add(file.stem)
            if engine in READINGS:
                assert len(effective(engine, config, 512).layers) == len(own)
        except RopewalkError as error:
            refusals.append(str(error))
    assert all(len(line.splitlines()) == 1 for line in refusals)
    assert len(served) >= LEAST[engine]
    assert engine == "hf" or not served & STILL


def test_positions_that_do_not_rotate_are_read_but_not_overridden() -> None:
    for name in sorted(STILL):
        config = published(name)
        for engine in (vllm, sglang):
            assert engine.read({}, config) == hf.read(config)
            with pytest.raises(UnsupportedError, match="no layer rotates: an override for"):
                engine.write(hf.read(config), config, 512)


# files


def test_files_for_every_engine() -> None:
    files = engine_files(every(rw.Yarn(2.0, 8192)), LLAMA, LENGTH)
    assert set(files) == {"README.md", "vllm.json", "sglang.json", "llamacpp.txt"}
    for engine in ("vllm", "sglang"):
        assert ENGINES[engine].module.read(json.loads(files[f"{engine}.json"]), LLAMA)[
            0
        ].spectrum().magnitude == mscale(2.0)
    assert files["llamacpp.txt"] == flags(rw.Yarn(2.0, 8192)) + "\n"
    assert "--max-model-len 16384" in files["README.md"]
    assert "Lost: nothing." in files["README.md"]


def test_files_say_what_is_lost() -> None:
    files = engine_files(every(rw.Yarn(2.0, 8192, truncate=False)), LLAMA, LENGTH)
    assert "rope_freqs.weight" in files["llamacpp.notes.txt"]
    assert "rope_freqs.weight" in files["README.md"]
    assert len(json.loads(files["llamacpp.tensors.json"])["rope_freqs.weight"]) == 64
    config = published("cohere-r7b")
    files = engine_files(with_scaling(config, (rw.NTKByParts(2.0, 8192),)), config, LENGTH)
    assert set(files) == {"README.md", "vllm.notes.txt", "sglang.notes.txt", "llamacpp.notes.txt"}
    assert "cannot be served" in files["vllm.notes.txt"]


def test_a_silent_disagreement_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "read", lambda payload, config: every(rw.Yarn(2.0, 8192, magnitude=1.0)))
    with pytest.raises(RopewalkError, match=r"vllm would not run.*magnitude of 1 instead of 1\.06931"):
        engine_files(every(rw.Yarn(2.0, 8192)), LLAMA, LENGTH)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (every(rw.NTK(2.0)), "layer 0, pair 1 turns by"),
        (every()[1:], "31 layers instead of 32"),
        (((),) * 32, r"layer 0 is \(\) instead of Rotary"),
        ((Rotary(64, 5e5),) * 32, "layer 0 has dim 64 instead of 128"),
        ((Rotary(128, 5e5, pairing="interleaved"),) * 32, "layer 0 has pairing 'interleaved'"),
        (every(rw.Rescale((1 + 2e-6,) * 64)), "layer 0, pair 0"),
    ],
    ids=["rates", "count", "nope", "channels", "pairing", "just above the bound"],
)
def test_disagreements_are_seen(got: Any, message: str) -> None:
    assert disagreement(every(), every(), LENGTH) is None
    assert re.search(message, disagreement(every(), got, LENGTH) or "")


def rope_of(engine: ModuleType, rule: Any) -> dict[str, Any]:
    payload, notes = engine.write(every(rule), LLAMA, LENGTH)
    assert notes == ()
    assert payload["max_position_embeddings"] == LENGTH
    return payload["rope_parameters" if engine is vllm else "rope_scaling"]


def flags(rule: Any) -> str:
    payload, notes = llamacpp.write(every(rule), LLAMA, LENGTH)
    assert (notes, payload["tensors"]) == ((), {})
    return " ".join(payload["flags"])
