"""Views on an array of losses, against loops over tokens; intervals, against their definitions."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ropewalk import ConfigError
from ropewalk.evaluate.metrics.accuracy import Z95, wilson
from ropewalk.evaluate.metrics.perplexity import RUN, Mean, by_position, by_prefix, mean, paired, span, windows

Floats = NDArray[np.float64]


def losses_of(tokens: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).gamma(2.0, size=tokens - 1)


def of_tokens(losses: Floats, start: int, end: int) -> list[float]:
    """The losses of tokens start to end - 1, token by token: that of token t stands at t - 1, token 0 has none."""
    return [float(losses[t - 1]) for t in range(start, end) if 1 <= t <= len(losses)]


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 4), (1, 4), (3, 40), (7, 7), (39, 100), (41, 50)])
def test_span_holds_the_losses_of_the_tokens_between(start: int, end: int) -> None:
    assert span(losses_of(40), start, end).tolist() == of_tokens(losses_of(40), start, end)


def test_by_prefix_is_the_mean_of_every_prefix_on_its_own() -> None:
    losses = losses_of(300)
    lengths = [2, 3, 64, 65, 299, 300]
    each = [math.fsum(of_tokens(losses, 0, n)) / (n - 1) for n in lengths]
    np.testing.assert_allclose(by_prefix(losses, lengths), each, rtol=300 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("length", [0, 1, 301])
def test_a_prefix_that_was_not_read_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=rf"by_prefix\.length must be from 2 to 300, got {length}$"):
        by_prefix(losses_of(300), [length])


def test_by_position_is_the_mean_of_every_block() -> None:
    losses, edges = losses_of(200), [0, 1, 5, 70, 200, 230, 300]
    found = by_position(losses, edges)
    for got, (a, b) in zip(found, pairwise(edges), strict=True):
        here = of_tokens(losses, a, b)
        assert (got is None) == (here == [])
        if got is not None:
            assert got.tokens == len(here)
            assert got.loss == pytest.approx(np.mean(here), rel=1e-12)
    assert [m is None for m in found] == [True, False, False, False, True, True]


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_count_every_token_once_with_enough_context(tokens: int, width: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, width))
    plan = list(windows(tokens, width, stride))
    assert [t for w in plan for t in range(w.scored, w.end)] == list(range(tokens))
    assert all(0 < w.end - w.begin <= width for w in plan)
    assert all(w.scored - w.begin >= width - stride for w in plan[1:])
    assert plan[-1].end == tokens


@pytest.mark.parametrize(("width", "stride"), [(0, 1), (4, 0), (4, 5)])
def test_impossible_windows_are_refused(width: int, stride: int) -> None:
    with pytest.raises(ConfigError, match=r"windows\.(width|stride) must be"):
        list(windows(10, width, stride))


def test_a_mean_without_losses_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one loss, got 0"):
        mean(np.empty(0))


def test_a_mean_of_too_few_runs_knows_no_error() -> None:
    assert mean(losses_of(2 * RUN)).se == math.inf
    assert math.isfinite(mean(losses_of(2 * RUN + 1)).se)


def test_a_mean_is_of_all_tokens_and_its_error_of_whole_runs() -> None:
    losses = losses_of(10 * RUN + 38)
    got = mean(losses)
    runs = [np.mean(losses[k * RUN : (k + 1) * RUN]) for k in range(10)]
    assert got.tokens == len(losses)
    assert got.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert got.se == pytest.approx(np.std(runs, ddof=1) / math.sqrt(10), rel=1e-12)


def test_float32_losses_are_summed_in_float64() -> None:
    """In float32, 2 ** 24 and one more is 2 ** 24."""
    losses = np.ones(1025, dtype=np.float32)
    losses[0] = 2**24
    assert mean(losses).loss == (2**24 + 1024) / 1025
    assert by_prefix(losses, [1026]) == [(2**24 + 1024) / 1025]


RUNS = 800


def drift(decay: float) -> Floats:
    """Noise of unit variance in which neighbours correlate by `decay`."""
    rng, out = np.random.default_rng(1), np.empty(RUNS * RUN)
    value = 0.0
    for i, step in enumerate(rng.normal(size=len(out)) * math.sqrt(1 - decay**2)):
        value = decay * value + step
        out[i] = value
    return out


def error_of_runs(decay: float) -> float:
    """The standard error that the variance of a mean over 64 such neighbours gives, worked out by its covariances."""
    lags = range(1, RUN)
    share = 1 + 2 * sum((1 - k / RUN) * decay**k for k in lags)
    return math.sqrt(share / (RUNS * RUN))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_error_is_that_of_the_noise(decay: float) -> None:
    """A standard deviation of 800 values is known to one part in sqrt(2 * 799); five times that is allowed."""
    found = mean(drift(decay)).se
    assert found == pytest.approx(error_of_runs(decay), rel=5 / math.sqrt(2 * (RUNS - 1)))


def test_correlated_noise_has_a_larger_error_than_its_spread_suggests() -> None:
    plain, correlated = drift(0.0), drift(0.9)
    assert mean(plain).se == pytest.approx(plain.std() / math.sqrt(len(plain)), rel=5 / math.sqrt(2 * (RUNS - 1)))
    assert mean(correlated).se > 3 * correlated.std() / math.sqrt(len(correlated))


def test_pairing_takes_out_what_both_share() -> None:
    text = losses_of(20 * RUN + 1)
    worse = text + 0.01 + np.random.default_rng(5).normal(size=len(text)) * 1e-3
    got = paired(worse, text)
    assert abs(got.loss - 0.01) < 5 * got.se
    assert got.se < mean(text).se / 100
    assert paired(text, text)[:2] == (0.0, 0.0)


def test_pairing_takes_the_tokens_that_both_have() -> None:
    a, b = losses_of(400, seed=1), losses_of(300, seed=2)
    assert paired(a, b) == mean(a[:299] - b)
    assert paired(b, a) == mean(b - a[:299])


def test_a_mean_shows_itself_as_perplexity_and_interval() -> None:
    m = Mean(loss=math.log(8.0), se=0.1, tokens=7)
    assert m.perplexity == pytest.approx(8.0)
    assert (m.low, m.high) == pytest.approx((math.log(8) - 0.1 * Z95, math.log(8) + 0.1 * Z95))


@pytest.mark.parametrize("asked", [1, 2, 3, 5, 8, 24, 64, 100])
def test_wilson_ends_where_the_normal_test_stops_rejecting(asked: int) -> None:
    """Both ends p solve (found / asked - p) ** 2 = z ** 2 p (1 - p) / asked."""
    for found in range(asked + 1):
        rate, z2 = found / asked, Z95**2
        low, high = np.sort(np.roots([1 + z2 / asked, -2 * rate - z2 / asked, rate**2]).real)
        got = wilson(found, asked)
        assert (got.found, got.asked) == (found, asked)
        # the roots of a quadratic lose half of their digits where they lie close together
        assert (got.low, got.high) == pytest.approx((low, high), abs=1e-7)
        assert 0 <= got.low <= rate <= got.high <= 1


# Newcombe 1998, Statistics in Medicine 17, table I, method 3
@pytest.mark.parametrize(
    ("found", "asked", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_published_intervals(found: int, asked: int, low: float, high: float) -> None:
    got = wilson(found, asked)
    assert (round(got.low, 4), round(got.high, 4)) == (low, high)


def test_wilson_is_exact_at_the_ends_and_open_when_nothing_was_asked() -> None:
    assert wilson(0, 12).low == 0.0
    assert wilson(12, 12).high == 1.0
    assert wilson(0, 0)[2:] == (0.0, 1.0)
    for found, asked in ((-1, 3), (4, 3)):
        with pytest.raises(ConfigError, match=r"wilson\.found must be from 0 to 3"):
            wilson(found, asked)


def test_wilson_covers_as_often_as_it_says() -> None:
    """Over all rates, 95 % intervals of 24 answers hold the rate in close to 95 of 100 cases; a 90 % one would not."""
    rates = (np.r_[0:1000] + 0.5) / 1000
    covered = np.zeros_like(rates)
    for found in range(25):
        got = wilson(found, 24)
        covered += (
            math.comb(24, found)
            * rates**found
            * (1 - rates) ** (24 - found)
            * ((got.low <= rates) & (rates <= got.high))
        )
    assert 0.94 < covered.mean() < 0.965
    assert covered.min() > 0.83
