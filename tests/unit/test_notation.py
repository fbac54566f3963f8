"""notation.py: what is read, and what is refused in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ropewalk as rw

positive = st.floats(1.0, 1e6)
length = st.integers(1, 10**7)
magnitude = st.none() | st.floats(0.1, 10)
divisors = st.tuples(*[st.floats(0.01, 1e3)] * 8)
rules = st.one_of(
    st.builds(rw.Linear, positive),
    st.builds(rw.NTK, positive),
    st.builds(rw.Yarn, positive, length, ramp=st.sampled_from(["index", "rotations"]), magnitude=magnitude),
    st.builds(rw.Yarn, positive, length, st.floats(40, 99), st.floats(1e-9, 2), truncate=st.booleans()),
    st.builds(rw.LongRope, divisors, divisors, st.integers(2, 10**6), factor=st.none() | positive),
    st.builds(rw.Rescale, divisors, st.floats(0.5, 2)),
    st.builds(rw.Proportional, st.floats(0, 1)),
    st.builds(rw.RadixNTK, positive, exponent=st.floats(0, 1)),
)
rotaries = st.builds(
    rw.Rotary,
    st.sampled_from([16]),
    st.floats(2, 1e9),
    st.lists(rules, max_size=3).map(tuple),
    st.sampled_from(["half", "interleaved"]),
    st.integers(0, 256),
)


@given(rotaries)
def test_any_value_reads_back_from_either_form(encoding: rw.Rotary) -> None:
    assert rw.parse(repr(encoding)) == encoding
    assert rw.parse(rw.short(encoding)) == encoding


@given(st.lists(rotaries | st.just(()) | st.tuples(rotaries), max_size=4))
def test_a_pattern_over_layers_reads_back(layers: list[object]) -> None:
    assert rw.parse(repr(layers)) == layers
    assert rw.parse(rw.short(layers)) == layers


def test_short_leaves_defaults_out() -> None:
    assert rw.short(rw.Yarn(2.0, 8192)) == "Yarn(factor=2.0, trained_length=8192)"
    assert rw.short(rw.Yarn(2.0, 8192, beta_fast=float("32"))) == "Yarn(factor=2.0, trained_length=8192)"
    nested = rw.Rotary(64, 1e5, (rw.Linear(2.0), rw.Yarn(2.0, 8192, ramp="rotations")))
    inner = "Linear(factor=2.0), Yarn(factor=2.0, trained_length=8192, ramp='rotations')"
    assert rw.short(nested) == f"Rotary(dim=64, base=100000.0, scaling=({inner}))"
    assert rw.short((rw.Linear(2.0),)) == "(Linear(factor=2.0),)"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Rotary(64)", rw.Rotary(64)),
        (" Rotary(64, 1e5,\n scaling=(Yarn(4, 8192),)) ", rw.Rotary(64, 1e5, (rw.Yarn(4, 8192),))),
        ("()", ()),
        ("[Rotary(64), ()]", [rw.Rotary(64), ()]),
        ("(None, True, False, -2, -1.5e-3, 'half')", (None, True, False, -2, -0.0015, "half")),
    ],
)
def test_what_is_read(text: str, value: object) -> None:
    assert rw.parse(text) == value


def test_a_whole_number_in_a_float_field_prints_as_the_float_that_it_equals() -> None:
    assert repr(rw.parse("Yarn(2, 8192, magnitude=1)")) == repr(rw.Yarn(2.0, 8192, magnitude=1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "notation must be one value, such as Rotary.*: invalid syntax"),
        ("Rotary(64", r"got 'Rotary\(64': '\(' was never closed"),
        ("Rotary(64) Rotary(64)", "notation must be one value"),
        ("x = Rotary(64)", "notation must be one value"),
        ("\0", "notation must be one value"),
        ("(" * 500, r"notation must be one value.*\.\.\.'"),
        ("-" * 100_000 + "1", r"notation must be one value.*\.\.\.'"),
        ("Yarnn(2, 8192)", "unknown name 'Yarnn'; did you mean 'Yarn'.*; `ropewalk list` shows every name"),
        ("open('x')", "unknown name 'open'"),
        ("nan", "unknown name 'nan'"),
        ("Yarn", r"Yarn must be called with its fields: Yarn\(factor, trained_length, beta_fast=32.0"),
        ("Yarn(factr=2, trained_length=9)", r"Yarn has no field 'factr'; did you mean 'factor'\?: Yarn\(factor, "),
        ("Yarn(**{'factor': 2})", r"Yarn has no field '\*\*'"),
        ("Yarn(*(2, 8192))", r"notation must be names, numbers, strings and tuples, got \*\(2, 8192\)"),
        ("Yarn(2, 8192, factor=3)", "Yarn.factor is given twice"),
        ("Yarn(2, trained_length=8, trained_length=9)", "Yarn.trained_length is given twice"),
        ("Yarn(2)", r"Yarn needs trained_length: Yarn\(factor, trained_length"),
        ("Yarn()", "Yarn needs factor and trained_length"),
        ("Linear(2, 3)", r"Linear has no place for 2 values: Linear\(factor\)"),
        ("Linear('2')", "Linear.factor must be a number of at least 1, got '2'"),
        ("Linear(True)", "Linear.factor must be a number of at least 1, got True"),
        ("Linear(1e999)", "Linear.factor must be a number of at least 1, got inf"),
        ("Linear(-2)", r"Linear.factor must be a number of at least 1, got -2\.0"),
        ("Yarn(2, 8192.0)", r"Yarn.trained_length must be a whole number of at least 1, got 8192\.0"),
        ("Rotary(64, scaling=Linear(2))", "Rotary.scaling must be a tuple of scalings"),
        ("Rotary(64, scaling=(Rotary(64),))", "Rotary.scaling must be a tuple of scalings"),
        ("Rotary(64, scaling=[Linear(2)])", "Rotary.scaling must be a tuple of scalings"),
        ("Rescale([1.0, 2.0])", "Rescale.factors must be a tuple of positive numbers"),
        ("Rotary(63)", "Rotary.dim must be even, got 63"),
        ("1 + 1", r"got 1 \+ 1"),
        ("Linear(2)(3)", r"notation must be names, numbers, strings and tuples, got Linear\(2\)\(3\)"),
        ("().__class__", r"got \(\).__class__"),
        ("{}", "got {}"),
        ("1j", "got 1j"),
        ("b'x'", "got b'x'"),
        ("...", r"got \.\.\."),
        ("--1", "got --1"),
        ("[x for x in ()]", "got "),
        ("f'{1}'", "got "),
        ("lambda: 1", "got lambda: 1"),
    ],
)
def test_what_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(rw.ConfigError, match=message) as caught:
        rw.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
