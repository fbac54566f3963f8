"""scalings/bounds.py: what a base can carry."""

import math

import ropewalk as rw
from ropewalk.scalings import bounds


def rates(dim: int, base: float) -> tuple[float, ...]:
    return rw.Rotary(dim, base).spectrum().inv_freq


def test_the_first_negative_gap_is_the_first() -> None:
    for dim, base in ((16, 100.0), (32, 1000.0), (64, 3000.0)):
        gaps = [bounds.score_gap(rates(dim, base), m) for m in range(3000)]
        first = next(m for m, gap in enumerate(gaps) if gap < 0)
        assert bounds.first_negative(rates(dim, base), 3000) == first
        assert bounds.first_negative(rates(dim, base), first) is None


def test_the_first_negative_gap_is_found_beyond_one_block() -> None:
    first = bounds.first_negative(rates(128, 2e5), 10**6)
    assert first is not None
    assert first > bounds.BLOCK
    assert bounds.score_gap(rates(128, 2e5), first) < 0
    assert bounds.first_negative(rates(128, 2e5), first) is None


def test_the_search_for_a_base_equals_the_plain_scan() -> None:
    dim, length = 16, 60
    best = 1000.0 * length
    for steps in (10, 100, 1000):
        bases = (best * j / steps for j in range(1, steps + 1))
        best = next(b for b in bases if all(bounds.score_gap(rates(dim, b), m) >= 0 for m in range(length)))
    assert bounds.base_lower_bound(dim, length, rounds=3) == best


def test_pairs_before_the_critical_dimension_complete_a_turn_and_those_after_do_not() -> None:
    for dim, length, base in ((128, 4096, 1e4), (64, 8192, 1e5), (96, 2048, 5e5)):
        pairs = bounds.critical_dimension(dim, length, base) // 2
        turns = [length * f / math.tau for f in rates(dim, base)]
        assert turns[pairs - 1] >= 1 > turns[pairs]


def test_tuning_at_the_trained_length_leaves_the_base() -> None:
    assert math.isclose(bounds.critical_base(4096, 4096, base=5e5), 5e5, rel_tol=1e-12)
    assert bounds.critical_base(4096, 16384) > 1e4
