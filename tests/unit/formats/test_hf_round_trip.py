"""What is written into a config.json is what is read from it again."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stock import CONFIGS, published

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.layers import Layer, others_of, rotary_of
from ropewalk.formats.layout import length_field, prepared
from ropewalk.spectrum import for_length

NAMES = sorted(file.stem for file in CONFIGS.glob("*.json"))
TURNING = [name for name in NAMES if any(rotary_of(e) for e in hf.read(published(name)))]
# the angles are constants of the code, or one dict serves two encodings of a layer
FIXED = ("gpt-j-6b", "ministral-3-8b")
LENGTH = 65536


def assert_same(ours: Layer, theirs: Layer, length: int) -> None:
    """The same rates, element by element, and all else equal, in texts of `length` tokens."""
    assert others_of(ours) == others_of(theirs)
    a, b = (for_length(rotary_of(e), length) for e in (ours, theirs))
    if a is None or b is None:
        assert a is b
        return
    assert replace(a, base=2.0, scaling=()) == replace(b, base=2.0, scaling=())
    assert math.isclose(a.spectrum().magnitude, b.spectrum().magnitude, rel_tol=1e-12)
    for f, g in zip(a.spectrum().inv_freq, b.spectrum().inv_freq, strict=True):
        # a stopped pair may be written as one that is slower by 1e20
        assert math.isclose(f, g, rel_tol=1e-12, abs_tol=1e-19)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_config_survives(name: str) -> None:
    config = published(name)
    own = hf.read(config)
    text = prepared(config)
    # RoBERTa counts rows that no token has
    length = getattr(own[0], "length", text.get(length_field(text), 2048))
    written, losses = hf.write(own, config, length)
    assert losses == ()
    for before, after in set(zip(own, hf.read(written), strict=True)):
        for n in (100, length):
            assert_same(before, after, n)
    # what has nothing to do with positions stays
    assert {k: v for k, v in written.items() if k in ("architectures", "vocab_size", "vision_config")} == {
        k: v for k, v in config.items() if k in ("architectures", "vocab_size", "vision_config")
    }


NUMBERS = st.floats(1, 64)
TRAINED = st.integers(64, 200_000)
YARN = st.builds(
    rw.Yarn,
    NUMBERS,
    TRAINED,
    beta_fast=st.floats(8, 64),
    beta_slow=st.floats(0.25, 4),
    truncate=st.booleans(),
    magnitude=st.none() | st.floats(0.25, 4),
    mscale=st.sampled_from([None, 0.0]) | st.floats(0.1, 2),
    mscale_all_dim=st.sampled_from([None, 0.0]) | st.floats(0.1, 2),
)


@st.composite
def scalings(draw: Any, pairs: int) -> tuple[Any, ...]:
    """One rule, or two."""
    ends = st.tuples(st.floats(0.5, 100), st.floats(0.5, 100))
    divisors = ends.map(lambda ab: tuple(ab[0] + (ab[1] - ab[0]) * i / pairs for i in range(pairs)))
    rule = st.one_of(
        YARN,
        st.builds(rw.Linear, NUMBERS),
        st.builds(rw.NTK, NUMBERS),
        st.builds(rw.BaseChange, st.floats(100, 1e9)),
        st.builds(rw.Llama3, NUMBERS, TRAINED, st.floats(0.5, 2), st.floats(2.5, 8)),
        st.builds(rw.Rescale, divisors, st.floats(0.5, 2)),
        st.builds(rw.LongRope, divisors, divisors, TRAINED, magnitude=st.none() | st.floats(0.5, 2)),
        st.builds(rw.Proportional, st.floats(0.1, 1), NUMBERS),
    )
    first = draw(rule)
    # these are for rates that fall evenly, or for the length
    if isinstance(first, rw.LongRope) or not draw(st.booleans()):
        return (first,)
    second = draw(st.one_of(st.builds(rw.Linear, NUMBERS), st.builds(rw.NTK, NUMBERS)))
    return (first, second)


@pytest.mark.parametrize("name", [name for name in TURNING if name not in FIXED])
@settings(max_examples=8)
@given(st.data())
def test_any_scaling_survives(name: str, data: Any) -> None:
    """In every model: with a type of its own, or as divisors of each pair."""
    config = published(name)
    own = hf.read(config)
    dims = {r.dim for e in own if (r := rotary_of(e))}
    scaling = data.draw(scalings(dims.pop() // 2))
    wanted = tuple(replace(e, scaling=scaling) if isinstance(e, Rotary) else e for e in own)
    written, losses = hf.write(wanted, config, LENGTH)
    # DeepSeek's code has more than the angles depend on YaRN's weights
    assert all("softmax" in str(found) for found in losses)
    got = hf.read(written)
    for before, after in set(zip(wanted, got, strict=True)):
        for n in (100, LENGTH):
            assert_same(before, after, n)
    again, _ = hf.write(got, written, LENGTH)
    for before, after in set(zip(got, hf.read(again), strict=True)):
        assert_same(before, after, LENGTH)


def test_one_field_cannot_hold_two_lengths() -> None:
    config = published("ministral-3-8b")
    turn, sharper = hf.read(config)[0]
    wider = (replace(turn, scaling=(replace(turn.scaling[0], factor=32.0),)), sharper)
    written, losses = hf.write((wider,) * 34, config, 524288)
    assert losses == ()
    assert hf.read(written) == (wider,) * 34
    other = (replace(turn, scaling=(rw.Yarn(16.0, 8192),)), sharper)
    with pytest.raises(
        UnsupportedError, match=r"layer 0 would become .*Temperature\(floor=8192.* original length of both"
    ):
        hf.write((other,) * 34, config, 131072)
    with pytest.raises(UnsupportedError, match=r"layer 0 is .* cannot make it Rotary"):
        hf.write((turn,) * 34, config, 131072)


def test_axes_stay_as_they_are() -> None:
    config = published("qwen2.5-vl-7b")
    own = hf.read(config)[0]
    written, _ = hf.write((replace(own, scaling=(rw.Yarn(4.0, 32768),)),) * 28, config, 131072)
    plain, _ = hf.write((own,) * 28, config, 32768)
    # transformers 4 looks for them in the one, 5 in the other
    for field in ("rope_parameters", "rope_scaling"):
        assert written[field]["mrope_section"] == plain[field]["mrope_section"] == [16, 24, 24]
    with pytest.raises(UnsupportedError, match=r"layer 0 has sections \(16, 24, 24\) in the model's code, not \(\)"):
        hf.write((replace(own, sections=()),) * 28, config, 131072)


@pytest.mark.parametrize("name", ["gpt2", "opt-125m", "bert-base", "roberta-base"])
def test_a_table_does_not_grow(name: str) -> None:
    config = published(name)
    own = hf.read(config)
    rows = own[0].length
    assert hf.write(own, config, rows) == (config, ())
    assert hf.write(own, config, rows - 1) == (config, ())
    with pytest.raises(UnsupportedError, match=f"the model's table has {rows} positions, and no config can make it"):
        hf.write(own, config, rows + 1)


def test_biases_of_a_model_are_its_codes() -> None:
    for name, length in (("bloom-560m", 4096), ("mpt-7b", 4096), ("falcon-rw-1b", 4096), ("t5-small", 4096)):
        config = published(name)
        own = hf.read(config)
        written, losses = hf.write(own, config, length)
        assert losses == ()
        assert hf.read(written) == own
        with pytest.raises(UnsupportedError, match=r"layer 0 is .*a config cannot make it"):
            hf.write((rw.Rotary(64), *own[1:]), config, length)
    assert hf.write(hf.read(published("mpt-7b")), published("mpt-7b"), 4096)[0]["max_seq_len"] == 4096
