"""What every rule that bends a spectrum must leave true."""

import math
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ropewalk as rw
from ropewalk.scalings.ramps import index_range

EPS = sys.float_info.epsilon

half_dims = st.integers(2, 128)
bases = st.floats(10, 1e8)
factors = st.floats(1, 128)
windows = st.integers(64, 1_000_000)


def interpolating(factor: float, trained_length: int) -> list[rw.spectrum.Scaling]:
    """Every rule that keeps each rate between its own and its own over the factor."""
    v1 = rw.NTKByParts(factor, trained_length, beta_fast=16, beta_slow=2, ntk_turns=(1.25, 0.75))
    return [
        rw.Linear(factor),
        rw.NTK(factor),
        rw.NTKByParts(factor, trained_length),
        v1,
        rw.Yarn(factor, trained_length),
        rw.Yarn(factor, trained_length, truncate=False),
        rw.Yarn(factor, trained_length, ramp="rotations"),
        rw.Llama3(factor, trained_length),
        rw.RadixNTK(factor),
        rw.RadixNTK(factor, "old"),
        rw.RadixNTK(factor, "fixed"),
        rw.Proportional(1.0, factor),
    ]


@given(half_dims, bases, windows)
def test_a_factor_of_one_changes_no_bit(pairs: int, base: float, window: int) -> None:
    plain = rw.Rotary(2 * pairs, base).spectrum()
    for rule in interpolating(1.0, window):
        assert rule(plain) == plain, rule
    assert rw.Rescale((1.0,) * pairs)(plain) == plain


@given(half_dims, bases, factors, windows, st.floats(0, 1))
def test_length_dependent_rules_leave_short_texts_alone(
    pairs: int, base: float, factor: float, window: int, part: float
) -> None:
    plain = rw.Rotary(2 * pairs, base).spectrum()
    short = max(int(part * window), 1)
    for rule in (rw.DynamicNTK(factor, window), rw.DynamicYarn(window)):
        assert rule.at(short)(plain) == plain, rule
        assert rule.at(window)(plain) == plain, rule
        assert rule.at(2 * window)(plain) != plain, rule


@given(half_dims, bases, factors, windows)
def test_rates_stay_ordered_and_between_their_own_and_the_slowed_one(
    pairs: int, base: float, factor: float, window: int
) -> None:
    plain = rw.Rotary(2 * pairs, base).spectrum().inv_freq
    for rule in interpolating(factor, window):
        bent = rule(rw.Spectrum(plain)).inv_freq
        assert len(bent) == pairs
        assert all(f > 0 for f in bent), rule
        assert all(f >= g * (1 - 4 * EPS) for f, g in pairwise(bent)), rule
        # a power of the factor is off by as many units as its logarithm is large
        slack = (4 + math.log(factor)) * EPS
        ends = zip(bent, plain, strict=True)
        assert all(f / factor * (1 - slack) <= g <= f * (1 + slack) for g, f in ends), rule


@given(half_dims, bases, factors, windows)
def test_the_slowest_pair_is_slowed_by_the_whole_factor(pairs: int, base: float, factor: float, window: int) -> None:
    plain = rw.Rotary(2 * pairs, base).spectrum()
    slowest = plain.inv_freq[-1] / factor
    assert rw.Linear(factor)(plain).inv_freq[-1] == slowest
    assert rw.NTK(factor)(plain).inv_freq[-1] == pytest.approx(slowest, rel=8 * EPS)
    assert rw.RadixNTK(factor)(plain).inv_freq[-1] == pytest.approx(slowest, rel=8 * EPS)
    assert rw.RadixNTK(factor, "fixed")(plain).inv_freq[-1] == pytest.approx(slowest, rel=8 * EPS)
    if index_range(plain, window, 32, 1, True)[1] <= pairs - 1:
        assert rw.Yarn(factor, window)(plain).inv_freq[-1] == slowest


@given(half_dims, bases, factors, windows)
def test_ntk_leaves_the_fastest_pair_and_equals_a_larger_base(
    pairs: int, base: float, factor: float, window: int
) -> None:
    bent = rw.NTK(factor)(rw.Rotary(2 * pairs, base).spectrum()).inv_freq
    larger = rw.Rotary(2 * pairs, base * factor ** (pairs / (pairs - 1))).spectrum().inv_freq
    assert bent[0] == 1.0
    assert bent == pytest.approx(larger, rel=64 * EPS)


@given(half_dims, bases, st.floats(10, 1e8), factors)
def test_another_base_is_that_base_even_after_an_even_rule(
    pairs: int, base: float, other: float, factor: float
) -> None:
    moved = rw.Rotary(2 * pairs, base, (rw.Linear(factor), rw.BaseChange(other))).spectrum().inv_freq
    direct = rw.Rotary(2 * pairs, other, (rw.Linear(factor),)).spectrum().inv_freq
    # two powers, each off by about ln(base) units in the last place
    assert moved == pytest.approx(direct, rel=128 * EPS)


def test_another_base_is_refused_where_pairs_were_bent_unequally() -> None:
    with pytest.raises(rw.ConfigError, match="BaseChange must be given rates that fall by a constant ratio"):
        rw.Rotary(64, scaling=(rw.Yarn(4, 8192), rw.BaseChange(1e6))).spectrum()


@given(half_dims, bases, factors, windows)
def test_llama3_is_ntk_by_parts_with_other_ends(pairs: int, base: float, factor: float, window: int) -> None:
    plain = rw.Rotary(2 * pairs, base).spectrum()
    assert rw.Llama3(factor, window)(plain) == rw.NTKByParts(factor, window, beta_fast=4, beta_slow=1)(plain)


@given(half_dims, st.floats(0, 1))
def test_proportional_stops_the_slow_pairs_and_keeps_the_others(pairs: int, fraction: float) -> None:
    plain = rw.Rotary(2 * pairs).spectrum().inv_freq
    kept = math.floor(fraction * pairs)
    assert rw.Proportional(fraction)(rw.Spectrum(plain)).inv_freq == plain[:kept] + (0.0,) * (pairs - kept)


@given(half_dims, factors, factors, windows)
def test_rules_fold_from_left_to_right_and_magnitudes_multiply(pairs: int, a: float, b: float, window: int) -> None:
    first, second = rw.Yarn(a, window), rw.Yarn(b, window, ramp="rotations")
    both = rw.Rotary(2 * pairs, scaling=(first, second)).spectrum()
    assert both == second(first(rw.Rotary(2 * pairs).spectrum()))
    product = first.effective_magnitude() * second.effective_magnitude()
    assert both.magnitude == pytest.approx(product, rel=4 * EPS)


def test_longrope_switches_after_the_trained_window() -> None:
    rule = rw.LongRope((1.0, 1.5), (2.0, 3.0), trained_length=4096, factor=8.0)
    assert rule.at(4096).factors == rule.short_factor
    assert rule.at(4097).factors == rule.long_factor
    assert rule.at(1).magnitude == rule.at(9999).magnitude == pytest.approx(math.sqrt(1.25), rel=4 * EPS)
    assert rw.LongRope((1.0,), (2.0,), 4096, factor=8.0, magnitude=1.25).at(1).magnitude == 1.25


def test_yarn_keeps_everything_in_an_endless_window_and_nothing_in_a_tiny_one() -> None:
    # both ends of the ramp fall outside the pairs: the released formula would reverse it
    plain = rw.Rotary(8, base=10.0).spectrum()
    assert rw.Yarn(4, 10**9)(plain).inv_freq == plain.inv_freq
    assert rw.Yarn(4, 1)(plain).inv_freq[1:] == rw.Linear(4)(plain).inv_freq[1:]


@pytest.mark.parametrize("encoding", [e for e in rw.exported() if isinstance(e, rw.Rotary)], ids=rw.short)
def test_magnitude_and_rates_are_plain_finite_floats(encoding: rw.Rotary) -> None:
    spectrum = rw.for_length(encoding, 200).spectrum()
    assert all(type(f) is float and 0 <= f <= 1 for f in spectrum.inv_freq)
    assert type(spectrum.magnitude) is float
    assert spectrum.magnitude >= 1
