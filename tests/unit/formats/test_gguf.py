"""GGUF: read as llama.cpp reads it, written so that it reads back, copied byte by byte, refused in one line if bad."""

import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stock import ROTARY, published, scalings, with_scaling

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import ConfigError, RopewalkError, UnsupportedError
from ropewalk.formats import gguf, gguf_copy, gguf_file, hf, llamacpp
from ropewalk.formats.compare import disagreement
from ropewalk.formats.converted import converted
from ropewalk.scalings.yarn import mscale

LENGTH = 16384
LAYERS = 4
BASE = 1e4
OWN = Rotary(8, BASE)
ONES = [1.0] * 4


def metadata(arch: str = "llama", **extra: Any) -> dict[str, Any]:
    """The metadata of a small model; names of keys under the architecture have _ for the first dot."""
    about = {"block_count": LAYERS, "context_length": 8192, "rope.dimension_count": 8, "rope.freq_base": BASE}
    return {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in {**about, **extra}.items()}}


def payload(arch: str = "llama", tensors: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    return {"metadata": metadata(arch, **extra), "tensors": tensors or {}}


def scaled(kind: str | None = None, factor: float | None = None, **extra: Any) -> dict[str, Any]:
    """Keys under rope.scaling."""
    keys = {"type": kind, "factor": factor, **extra}
    return {f"rope.scaling.{key}": value for key, value in keys.items() if value is not None}


def only(layers: tuple[hf.Layer, ...]) -> Any:
    """The one encoding of all layers."""
    assert len(layers) == LAYERS
    assert len(set(layers)) == 1
    return layers[0]


# reading rules


def test_a_missing_type_is_linear_and_a_missing_factor_one() -> None:
    assert only(gguf.read(payload())) == OWN
    assert only(gguf.read(payload(**scaled(factor=4.0)))) == Rotary(8, BASE, (rw.Linear(4.0),))
    assert only(gguf.read(payload(**scaled(factor=0.0)))) == OWN
    assert only(gguf.read(payload(**{"rope.scale_linear": 2.0}))).scaling == (rw.Linear(2.0),)
    both = {"rope.scale_linear": 2.0, **scaled(factor=4.0)}
    assert only(gguf.read(payload(**both))).scaling == (rw.Linear(4.0),)
    assert only(gguf.read(payload(**scaled("none", 4.0)))) == OWN


def test_yarn_takes_its_length_from_the_context_and_its_ends_from_no_key() -> None:
    assert only(gguf.read(payload(**scaled("yarn", 2.0)))).scaling == (rw.Yarn(2.0, 8192),)
    known = scaled("yarn", 2.0, original_context_length=4096, yarn_beta_fast=16.0, yarn_beta_slow=2.0)
    assert only(gguf.read(payload(**known))).scaling == (rw.Yarn(2.0, 4096),)
    assert only(gguf.read(payload("mistral3", **known))).scaling == (rw.Yarn(2.0, 4096, 16.0, 2.0),)


def test_one_factor_on_the_magnitude_acts_and_another_does_not() -> None:
    (rule,) = only(gguf.read(payload(**scaled("yarn", 2.0, attn_factor=1.5)))).scaling
    assert math.isclose(rule.effective_magnitude(), 1.5 * mscale(2.0), rel_tol=1e-15)
    (rule,) = only(gguf.read(payload(**scaled("yarn", 2.0, yarn_attn_factor=1.5)))).scaling
    assert rule.effective_magnitude() == mscale(2.0)
    assert only(gguf.read(payload(**scaled("linear", 2.0, attn_factor=1.5)))).spectrum().magnitude == 1.5


def test_divisors_act_where_the_architecture_asks_for_them() -> None:
    divisors = [1.0, 2.0, 3.0, 4.0]
    freqs = {"rope_freqs.weight": divisors}
    lists = {"rope_factors_short.weight": ONES, "rope_factors_long.weight": divisors}
    assert only(gguf.read(payload(tensors=freqs))).scaling == (rw.Rescale(tuple(divisors)),)
    both = only(gguf.read(payload(tensors=freqs, **scaled("linear", 2.0))))
    assert both.scaling == (rw.Linear(2.0), rw.Rescale(tuple(divisors)))
    switch = rw.LongRope((1.0,) * 4, tuple(divisors), 4096, magnitude=1.2)
    known = scaled("longrope", original_context_length=4096, attn_factor=1.2)
    assert only(gguf.read(payload(tensors=lists, **known))).scaling == (switch,)
    assert only(gguf.read(payload("phi3", lists, **scaled(original_context_length=4096)))).scaling[0].long_factor == (
        switch.long_factor
    )
    for arch, tensors, kind in [("llama", lists, "yarn"), ("llama", freqs, "longrope"), ("qwen2", freqs, "linear")]:
        with pytest.raises(UnsupportedError, match=rf"refuses a {arch} file of scaling type {kind} that holds rope_f"):
            gguf.read(payload(arch, tensors, **scaled(kind, 2.0)))


def test_sliding_layers_have_rules_of_their_own() -> None:
    window = {"attention.sliding_window": 64}
    yarn = scaled("yarn", 2.0, attn_factor=1.5)
    # Gemma 3: another base, no factor, but the magnitude
    layers = gguf.read(payload("gemma3", **{**window, **yarn, "block_count": 6}))
    assert layers[0] == Rotary(8, 1e4, (rw.Rescale((1.0,) * 4, 1.5),))
    assert math.isclose(layers[5].spectrum().magnitude, 1.5 * mscale(2.0), rel_tol=1e-15)  # type: ignore[union-attr]
    assert [len(e.scaling) for e in gguf.read(payload("gemma3", **yarn))] == [1] * LAYERS  # type: ignore[union-attr]
    # OLMo 3: nothing but the base
    assert gguf.read(payload("olmo2", **window, **yarn))[:3] == (OWN,) * 3
    # gpt-oss: all alike
    assert len(set(gguf.read(payload("gpt-oss", **yarn)))) == 1
    # Command R7B: positions where it slides alone
    assert gguf.read(payload("cohere2"))[2:] == (Rotary(8, BASE, pairing="interleaved"), ())
    marks = {"attention.sliding_window_pattern": [True, False, True, True]}
    assert [e == () for e in gguf.read(payload("cohere2", **marks))] == [False, True, False, False]
    assert [e == () for e in gguf.read(payload("smollm3"))] == [False, False, False, True]


def test_deepseeks_weight_is_kept_in_tenths() -> None:
    known = scaled("yarn", 40.0, original_context_length=4096, yarn_log_multiplier=0.1)
    e = only(gguf.read(payload("deepseek2", **known)))
    assert e.spectrum().magnitude == 1.0
    assert e.pairing == "interleaved"
    assert only(gguf.read(payload("mistral3", **known))).spectrum().magnitude == mscale(40.0) / mscale(40.0, 0.1)


def test_axes_are_those_of_the_architecture() -> None:
    e = only(gguf.read(payload("qwen3vl", **{"rope.dimension_sections": [2, 1, 1, 0]})))
    assert (e.sections, e.layout) == ((2, 1, 1), "interleaved")


BAD = {
    "no architecture": ({"general.architecture": None}, "general.architecture"),
    "a number for a name": ({"general.architecture": 3}, "general.architecture"),
    "text for a base": ({"llama.rope.freq_base": "big"}, "llama.rope.freq_base must be a number"),
    "not a number": ({"llama.rope.freq_base": math.nan}, "llama.rope.freq_base"),
    "a base of one": ({"llama.rope.freq_base": 1.0}, "Rotary.base"),
    "text for a factor": ({"llama.rope.scaling.factor": "two"}, "llama.rope.scaling.factor"),
    "a factor below one": ({"llama.rope.scaling.factor": 0.5}, "Linear.factor"),
    "an unknown type": ({"llama.rope.scaling.type": "yarm"}, "none, linear, yarn, longrope"),
    "a list for a type": ({"llama.rope.scaling.type": ["yarn"]}, "none, linear, yarn, longrope"),
    "odd channels": ({"llama.rope.dimension_count": 7}, "Rotary.dim"),
    "a temperature in words": ({"llama.attention.temperature_scale": "x"}, "attention.temperature_scale"),
    "no layers": ({"llama.block_count": 0}, "llama.block_count"),
    "layers without end": ({"llama.block_count": 2**32 - 1}, "llama.block_count"),
    "no window": ({"llama.context_length": None}, "llama.context_length"),
    "a negative window": ({"llama.context_length": -1}, "llama.context_length"),
    "a truth for a number": ({"llama.block_count": True}, "llama.block_count"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_metadata_are_named(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(ConfigError, match=message) as caught:
        gguf.read({"metadata": {**metadata(), **changes}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[1.0] * 3, [0.0] * 4, [1.0, 1.0, 1.0, math.inf], 3, ["a"] * 4], ids=repr)
def test_bad_divisors_are_named(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight must be 4 positive numbers"):
        gguf.read(payload(tensors={"rope_freqs.weight": values}))


def test_what_is_not_read_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="sharpens later queries"):
        gguf.read(payload("mistral3", **{"attention.temperature_scale": 0.1}))
    with pytest.raises(UnsupportedError, match=r"'lama' are not known here; did you mean 'llama'\?"):
        gguf.read(payload("lama"))


# what is written reads back


@pytest.mark.parametrize("name", ROTARY)
def test_every_scaling_survives_or_is_named(name: str) -> None:
    config = published(name)
    pairs = next(e for e in hf.read(config) if e != ()).dim // 2
    refused, carried = [], 0
    for scaling in scalings(pairs, 4096):
        encodings = with_scaling(config, scaling)
        try:
            change, losses = gguf.write(encodings, config, LENGTH)
        except UnsupportedError as error:
            refused.append(str(error))
            continue
        exact = disagreement(encodings, gguf.read(change, config), LENGTH) is None
        assert exact or losses, scaling
        carried += exact
    # magnitudes reach Gemma's sliding layers too
    known = r"takes no divisors per pair|gemma3 cannot run that: layer 0 has a magnitude"
    assert [why for why in refused if not re.search(known, why)] == []
    assert carried >= 5
    if converted(config)["metadata"]["general.architecture"] in ("llama", "phi3"):
        assert carried == len(scalings(pairs, 4096))


@pytest.mark.parametrize("name", ROTARY)
def test_the_converters_file_means_the_published_model(name: str) -> None:
    config = published(name)
    # the converter and llama.cpp have no unrounded ramp
    differs = disagreement(hf.read(config), gguf.read(converted(config)), 4096)
    assert (differs is None) == (name != "gpt-oss-20b")


RULES = st.one_of(
    st.just(()),
    st.floats(1, 64).map(lambda f: (rw.Linear(f),)),
    st.builds(lambda f, n: (rw.Yarn(f, n),), st.floats(1, 64), st.integers(16, 2**20)),
    st.builds(
        lambda f, n, m: (rw.Yarn(f, n, magnitude=m),), st.floats(1, 64), st.integers(16, 2**20), st.floats(0.5, 2)
    ),
    st.lists(st.floats(1, 64), min_size=4, max_size=4).map(lambda d: (rw.Rescale(tuple(d)),)),
    st.lists(st.floats(1, 64), min_size=4, max_size=4).map(
        lambda d: (rw.LongRope((1.0,) * 4, tuple(d), 4096, magnitude=1.25),)
    ),
)
OLD = [
    payload(**scaled("yarn", 4.0, attn_factor=1.5, original_context_length=100)),
    payload(tensors={"rope_freqs.weight": [1.0, 2.0, 3.0, 4.0]}, **{"rope.scale_linear": 2.0}),
    payload(
        tensors={"rope_factors_short.weight": ONES, "rope_factors_long.weight": [9.0] * 4},
        **scaled("longrope", 3.0, original_context_length=100),
    ),
]


@given(rules=RULES, base=st.floats(100, 1e8), old=st.sampled_from(OLD), length=st.integers(1, 2**31))
def test_what_stood_in_the_file_leaves_no_trace(rules: Any, base: float, old: Any, length: int) -> None:
    wanted = (Rotary(8, base, rules),) * LAYERS
    change, _ = gguf.write(wanted, old, length)
    got = gguf.read(change, old)
    for at in (1, 4096, 4097, length):
        assert disagreement(wanted, got, at) is None
    assert change["metadata"]["llama.context_length"] == length
    # flags that are given later find nothing old either
    after = {**old["metadata"], **change["metadata"]}
    assert after.get("llama.rope.scale_linear") is None
    assert (after.get("llama.rope.scaling.factor") is None) == (after["llama.rope.scaling.type"] == "none")


def test_identity_where_the_format_has_the_same_words() -> None:
    for rules in ((), (rw.Linear(2.0),), (rw.Yarn(2.0, 4096),), (rw.Rescale((1.0, 2.0, 3.0, 4.0)),)):
        wanted = (Rotary(8, BASE, rules),) * LAYERS
        assert gguf.read(gguf.write(wanted, payload(), LENGTH)[0], payload()) == wanted


def test_an_unusual_ramp_is_rounded_with_figures_where_no_divisors_fit() -> None:
    rule = rw.Yarn(4.0, 512, truncate=False)
    wanted = (Rotary(8, BASE, (rule,)),) * LAYERS
    assert gguf.write(wanted, payload(), 2048)[1] == ()
    change, (lost,) = gguf.write(wanted, payload("qwen3"), 2048)
    assert gguf.read(change, payload("qwen3"))[0] == Rotary(8, BASE, (rw.Yarn(4.0, 512),))
    assert "truncate=False" in lost.what
    assert lost.frequency > 0.01
    assert lost.magnitude == 1
    with pytest.raises(UnsupportedError, match="qwen3 takes no divisors per pair"):
        gguf.write((Rotary(8, BASE, (rw.Llama3(4.0, 512),)),) * LAYERS, payload("qwen3"), 2048)


def test_what_follows_the_length_is_frozen_and_told() -> None:
    wanted = (Rotary(8, BASE, (rw.DynamicYarn(512),)),) * LAYERS
    change, (lost,) = gguf.write(wanted, payload(), 2048)
    assert gguf.read(change, payload())[0] == Rotary(8, BASE, (rw.Yarn(4.0, 512),))
    assert "DynamicYarn" in lost.what
    switch = (Rotary(8, BASE, (rw.LongRope((1.0,) * 4, (2.0,) * 4, 512),)),) * LAYERS
    assert "short divisors" in gguf.write(switch, payload(), 2048)[1][0].what
    assert gguf.write(switch, payload(), 512)[1] == ()
    odd = (Rotary(8, BASE, (rw.LongRope((1.0,) * 4, (2.0,) * 4, 500),)),) * LAYERS
    # 512 tokens are allocated for 500
    (lost,) = gguf.write(odd, payload(), 500)[1]
    assert lost.frequency == 0.5
    assert gguf.write(odd, payload(), 256)[1] == ()


def test_sliding_layers_are_written_under_their_own_key_or_refused() -> None:
    window = {"attention.sliding_window": 64, "block_count": 6}
    here, there = Rotary(8, 5e4), Rotary(8, 1e6, (rw.Linear(8.0),))
    old = payload("gemma3", **window)
    change, losses = gguf.write((here,) * 5 + (there,), old, LENGTH)
    assert change["metadata"]["gemma3.rope.freq_base_swa"] == 5e4
    assert gguf.read(change, old) == (here,) * 5 + (there,)
    assert losses == ()
    with pytest.raises(UnsupportedError, match="gemma3 cannot run that: layer 0"):
        gguf.write((there,) * 6, old, LENGTH)
    # what flags cannot reach, metadata can
    config = published("gpt-oss-20b")
    everywhere = with_scaling(config, (rw.Yarn(8.0, 4096),))
    assert disagreement(everywhere, gguf.read(gguf.write(everywhere, config, LENGTH)[0], config), LENGTH) is None
    with pytest.raises(UnsupportedError, match="flags do not reach all sliding layers"):
        llamacpp.write(everywhere, config, LENGTH)


def test_deepseeks_softmax_is_part_of_what_is_written() -> None:
    old = payload("deepseek2", **scaled("yarn", 40.0, original_context_length=4096, yarn_log_multiplier=0.1))
    kept = Rotary(8, BASE, (rw.Yarn(20.0, 4096, mscale=0.5, mscale_all_dim=0.5),), "interleaved")
    change, losses = gguf.write((kept,) * LAYERS, old, LENGTH)
    assert losses == ()
    assert math.isclose(change["metadata"]["deepseek2.rope.scaling.yarn_log_multiplier"], 0.05, rel_tol=1e-15)
    # in this code a magnitude of its own reaches the softmax too, and so does a linear factor
    for rule in (rw.Yarn(20.0, 4096), rw.Linear(20.0)):
        _, (lost,) = gguf.write((Rotary(8, BASE, (rule,), "interleaved"),) * LAYERS, old, LENGTH)
        assert lost.instead == f"a factor of {mscale(20.0) ** 2:.6g}"


def test_channels_and_layers_must_fit() -> None:
    for encodings, message in [
        ((Rotary(16, BASE),) * LAYERS, "dim 8"),
        ((OWN,) * 3, "encodings"),
        ((Rotary(8, BASE, pairing="interleaved"),) * LAYERS, "pairing"),
        (((),) * LAYERS, "layer 0"),
    ]:
        with pytest.raises(RopewalkError, match=message):
            gguf.write(encodings, payload(), LENGTH)
    for length in (0, -1, 1e30, 2**32, math.nan, True):
        with pytest.raises(ConfigError, match="length must be a whole number"):
            gguf.write((OWN,) * LAYERS, payload(), length)  # type: ignore[arg-type]


# files


def string(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, value: Any) -> bytes:
    """A metadata entry in the usual type for its value."""
    if isinstance(value, str):
        return string(key) + struct.pack("<I", 8) + string(value)
    if isinstance(value, bool):
        return string(key) + struct.pack("<I?", 7, value)
    if isinstance(value, list):
        items = b"".join(string(item) if isinstance(item, str) else struct.pack("<i", item) for item in value)
        return string(key) + struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 5, len(value)) + items
    code = ("<If", 6) if isinstance(value, float) else ("<II", 4)
    return string(key) + struct.pack(*code, value)


def build(entries: list[bytes], tensors: dict[str, bytes], alignment: int = 32) -> bytes:
    """A GGUF of float32 vectors."""
    head, offset = b"", 0
    for name, data in tensors.items():
        head += string(name) + struct.pack("<IQIQ", 1, len(data) // 4, 0, offset)
        offset += len(data) + -len(data) % alignment
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + head
    padded = [data + bytes(-len(data) % alignment) for data in tensors.values()]
    return start + bytes(-len(start) % alignment) + b"".join(padded)


VOCABULARY = [f"token {i}" for i in range(5000)]
WEIGHTS = {"a.weight": bytes(range(100)), "b.weight": bytes(range(200, 240)), "c.weight": b"abcd" * 3000}


def entries() -> list[bytes]:
    extra = {"general.license": "mit", "tokenizer.ggml.tokens": VOCABULARY, "tokenizer.ggml.add_bos_token": False}
    return [entry(key, value) for key, value in {**metadata(), **extra, "tokenizer.ggml.types": [1] * 5000}.items()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(build(entries(), WEIGHTS))
    return file


def weights(file: Path) -> dict[str, bytes]:
    """The bytes of every tensor, as another reader finds them."""
    from gguf import GGUFReader

    return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(file).tensors}


def test_a_header_is_read_without_its_long_lists(source: Path) -> None:
    header = gguf_file.open(source)
    assert header.payload() == {
        "metadata": {**metadata(), "general.license": "mit", "tokenizer.ggml.add_bos_token": False},
        "tensors": {},
    }
    assert set(header.fields) - set(header.metadata) == {"tokenizer.ggml.tokens", "tokenizer.ggml.types"}
    assert {name: info.size for name, info in header.tensors.items()} == {n: len(d) for n, d in WEIGHTS.items()}
    assert gguf.read(header.payload()) == (OWN,) * LAYERS


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_an_unchanged_copy_is_the_same_file(tmp_path: Path, alignment: int) -> None:
    file, copy = tmp_path / "model.gguf", tmp_path / "copy.gguf"
    file.write_bytes(build([*entries(), entry("general.alignment", alignment)], WEIGHTS, alignment))
    gguf_copy.rewrite(file, copy, {}, {})
    assert copy.read_bytes() == file.read_bytes()


def test_a_copy_has_other_metadata_and_the_same_weights(source: Path, tmp_path: Path) -> None:
    before, copy = source.read_bytes(), tmp_path / "copy.gguf"
    wanted = (Rotary(8, 5e5, (rw.Llama3(8.0, 4096),)),) * LAYERS
    change, losses = gguf.write(wanted, gguf_file.open(source).payload(), 32768)
    assert losses == ()
    gguf_copy.rewrite(source, copy, change["metadata"], change["tensors"])
    assert source.read_bytes() == before
    header = gguf_file.open(copy)
    assert disagreement(wanted, gguf.read(header.payload()), 32768) is None
    assert header.metadata["llama.context_length"] == 32768
    found = weights(copy)
    assert found.pop("rope_freqs.weight") == struct.pack("<4f", *change["tensors"]["rope_freqs.weight"])
    assert found == WEIGHTS
    # and back again
    change, _ = gguf.write((OWN,) * LAYERS, header.payload(), 8192)
    again = tmp_path / "again.gguf"
    gguf_copy.rewrite(copy, again, change["metadata"], change["tensors"])
    assert weights(again) == WEIGHTS
    assert gguf.read(gguf_file.open(again).payload()) == (OWN,) * LAYERS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.gguf", "copy.gguf", "model.gguf"]


def test_keys_and_weights_can_be_taken_away(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    gguf_copy.rewrite(source, copy, {"general.license": None, "not.there": None}, {"b.weight": None, "nor.this": None})
    left = [e for e in entries() if b"general.license" not in e]
    assert copy.read_bytes() == build(left, {name: data for name, data in WEIGHTS.items() if name != "b.weight"})


def test_the_last_weight_may_lack_its_padding(source: Path, tmp_path: Path) -> None:
    data = build(entries(), {**WEIGHTS, "last": b"last"})
    source.write_bytes(data[:-28])
    gguf_copy.rewrite(source, tmp_path / "copy.gguf", {}, {})
    assert (tmp_path / "copy.gguf").read_bytes() == data


def test_a_file_never_replaces_its_source(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "link.gguf").symlink_to(source)
    for target in (source, tmp_path / "link.gguf", tmp_path / "." / "model.gguf"):
        with pytest.raises(ConfigError, match="another file than the one it is made from"):
            gguf_copy.rewrite(source, target, {}, {})
    assert source.read_bytes() == before


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "text for a number": ({"llama.rope.freq_base": "x"}, {}, "llama.rope.freq_base"),
    "too large": ({"llama.context_length": 2**32}, {}, "llama.context_length"),
    "a fraction for a whole number": ({"llama.context_length": 1.5}, {}, "llama.context_length"),
    "a number for a text": ({"general.license": 3}, {}, "general.license"),
    "a number for a truth": ({"tokenizer.ggml.add_bos_token": 1}, {}, "add_bos_token"),
    "a list": ({"new": [1]}, {}, "metadata new"),
    "infinite divisors": ({}, {"rope_freqs.weight": [math.inf]}, "rope_freqs.weight"),
    "no divisors": ({}, {"rope_freqs.weight": []}, "rope_freqs.weight"),
    "divisors beyond float32": ({}, {"rope_freqs.weight": [1e300]}, "rope_freqs.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_change_writes_nothing(name: str, source: Path, tmp_path: Path) -> None:
    changes, tensors, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        gguf_copy.rewrite(source, tmp_path / "copy.gguf", changes, tensors)
    assert list(tmp_path.iterdir()) == [source]


def test_an_interrupted_copy_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_copy, "copy_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        gguf_copy.rewrite(source, tmp_path / "copy.gguf", {}, {})
    assert list(tmp_path.iterdir()) == [source]


def test_a_folder_that_is_not_there_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RopewalkError, match=r"nowhere/copy.gguf cannot be written"):
        gguf_copy.rewrite(source, tmp_path / "nowhere" / "copy.gguf", {}, {})
    with pytest.raises(RopewalkError, match="cannot be read"):
        gguf_file.open(tmp_path / "nothing.gguf")


def head(tensors: int, count: int, *rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + b"".join(rest)


def info(shape: tuple[int, ...], kind: int = 0, offset: int = 0, name: str = "a") -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


FAR = 2**62
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty one"),
    "short": (b"GGUF\3\0", "truncated"),
    "another kind": (b"PK\3\4" * 10, "first four bytes"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version must be 2 or 3, little-endian, got 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version must be 2 or 3, little-endian"),
    "entries without end": (head(0, FAR), "metadata of"),
    "tensors without end": (head(FAR, 0), "a table of"),
    "a long key": (head(0, 1, struct.pack("<Q", FAR), bytes(99)), "the length of a metadata key"),
    "a long text": (head(0, 1, string("k"), struct.pack("<IQ", 8, 2**20)), "k takes 1048576 bytes, 0 are left"),
    "a long list": (head(0, 1, string("k"), struct.pack("<IIQ", 9, 4, FAR)), "k, a list of"),
    "a long list of texts": (head(0, 1, string("k"), struct.pack("<IIQ", 9, 8, FAR)), "k, a list of"),
    "lists in lists": (head(0, 1, string("k"), struct.pack("<IIQ", 9, 9, 1), bytes(99)), "the items of k"),
    "an unknown type": (head(0, 1, string("k"), struct.pack("<I", 13), bytes(99)), "the type of k"),
    "no text": (head(0, 1, string(b"\xff\xfe"), struct.pack("<II", 4, 1)), "not UTF-8"),
    "twice the same key": (head(0, 2, entry("k", 1), entry("k", 2)), "'k' must be there once"),
    "twice the same tensor": (head(2, 0, info((4,)), info((4,)), bytes(99)), "'a' must be there once"),
    "a tensor outside": (head(1, 0, info((4,), offset=2**40), bytes(64)), "tensor a takes 16 bytes, 0 are left"),
    "a tensor of huge shape": (head(1, 0, info((FAR, FAR, FAR, FAR)), bytes(64)), "tensor a takes"),
    "five axes": (head(1, 0, info((1,) * 5), bytes(99)), "the number of axes of a must be 1 to 4, got 5"),
    "an unknown tensor type": (head(1, 0, info((4,), kind=999), bytes(64)), "its type must be"),
    "rows of odd length": (head(1, 0, info((31,), kind=2), bytes(64)), "its rows must be"),
    "an odd offset": (head(1, 0, info((4,), offset=3), bytes(99)), "the offset of a"),
    "an odd alignment": (head(0, 1, entry("general.alignment", 33)), "general.alignment must be a power of two"),
    "alignment in words": (head(0, 1, entry("general.alignment", "x")), "general.alignment must be a power of two"),
    "divisors of a matrix": (head(1, 0, info((2, 2), name="rope_freqs.weight"), bytes(99)), "a list of at most"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(name: str, tmp_path: Path) -> None:
    content, message = DAMAGED[name]
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        gguf_file.open(tmp_path / "bad.gguf")
    assert "bad.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def complaint(read: Callable[[], object]) -> str:
    """What is said about a file, nothing if it is read; any error but ours comes through."""
    try:
        read()
    except RopewalkError as error:
        return str(error)
    return ""


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data, file = build([entry(k, v) for k, v in metadata().items()], {"a": b"12345678"}), tmp_path / "cut.gguf"
    for size in range(len(data) - 24):
        file.write_bytes(data[:size])
        assert complaint(lambda: gguf_file.open(file)).count(str(file)) == 1, size


@given(st.data())
def test_a_file_with_other_bytes_gives_a_reading_or_a_line(tmp_path_factory: Any, data: st.DataObject) -> None:
    content = bytearray(build([entry(k, v) for k, v in metadata().items()], {"rope_freqs.weight": b"\0\0\x80\x3f" * 4}))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "changed.gguf"
    file.write_bytes(content)
    assert "\n" not in complaint(lambda: gguf.read(gguf_file.open(file).payload()))


# what the converter makes of a config.json


def test_falcons_window_is_never_looked_for() -> None:
    config = published("falcon-7b")
    for extra in ({}, {"max_position_embeddings": 8192}):
        metadata = converted({**config, **extra})["metadata"]
        assert metadata["falcon.context_length"] == 2048
    assert gguf.read({}, config) == hf.read(config)
    small = {"model_type": "phi", "rope_theta": 1e4, "hidden_size": 64, "num_attention_heads": 4}
    with pytest.raises(ConfigError, match="max_position_embeddings must be given for the GGUF of a phi"):
        converted({**small, "num_hidden_layers": 2})


@pytest.mark.parametrize("name", ["qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_axes_reach_the_file(name: str) -> None:
    config = published(name)
    assert disagreement(hf.read(config), gguf.read({}, config), LENGTH) is None


# flags for a file


@pytest.mark.parametrize("tensors", [{}, {"rope_freqs.weight": [1.0, 1.5, 2.0, 4.0]}], ids=["plain", "divisors"])
def test_flags_for_a_file_are_those_for_its_config(tensors: dict[str, Any]) -> None:
    """With a file as the origin, its own metadata and divisors count."""
    source = payload(tensors=tensors)
    own = gguf.read(source)
    found, losses = llamacpp.write(own, source, 8192)
    assert (found["tensors"], losses) == ({}, ())
    assert disagreement(own, llamacpp.read(found, source), 8192) is None
    wanted = (Rotary(8, BASE, (rw.Yarn(2.0, 8192),)),) * LAYERS
    found, losses = llamacpp.write(wanted, source, LENGTH)
    assert disagreement(wanted, llamacpp.read(found, source), LENGTH) is None
    # divisors in the file go on acting, so others must take their place
    assert bool(found["tensors"]) == bool(losses) == bool(tensors)


def test_flags_add_to_a_scaling_that_is_in_the_file() -> None:
    rope = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 2048}
    source = payload(**{f"rope.{key}": value for key, value in rope.items()})
    assert "--rope-scaling none" in " ".join(llamacpp.write((OWN,) * LAYERS, source, 2048)[0]["flags"])


def test_a_temperature_is_refused_in_one_line() -> None:
    sharper = ((OWN, rw.Temperature(2048, 0.1, 0)),) * LAYERS
    for write in (gguf.write, llamacpp.write):
        with pytest.raises(UnsupportedError, match=r"layer 0 is Rotary.* in the model's code"):
            write(sharper, payload(), LENGTH)
        with pytest.raises(UnsupportedError, match="temperature_scale sharpens later queries"):
            write(sharper, payload("mistral3", **{"attention.temperature_scale": 0.1}), LENGTH)
        with pytest.raises(UnsupportedError, match="model_type 'ministral3' is not known"):
            write(hf.read(published("ministral-3-8b")), published("ministral-3-8b"), LENGTH)


def test_two_lists_where_no_code_chooses_between_them() -> None:
    """Equal lists are divisors; different ones are frozen, at a price."""
    pairs = (1.0, 2.0, 3.0, 4.0)
    for short, lost in ((pairs, 0), ((1.0, 1.0, 1.0, 1.0), 1)):
        wanted = (Rotary(8, BASE, (rw.LongRope(short, pairs, 2048, magnitude=1.25),)),) * LAYERS
        found, losses = gguf.write(wanted, payload("exaone4"), LENGTH)
        assert found["tensors"] == {"rope_freqs.weight": [1.0, 2.0, 3.0, 4.0]}
        assert len(losses) == lost
        with pytest.raises(UnsupportedError, match="qwen3 takes no divisors per pair"):
            gguf.write(wanted, payload("qwen3"), LENGTH)
