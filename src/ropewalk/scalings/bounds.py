"""What a base can carry: bounds on context length and base. Men et al. 2024, arXiv:2405.14591; Su 2024,
kexue.fm/archives/10122; Liu et al. 2023, arXiv:2310.05209."""

import cmath
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

BLOCK = 8192  # positions looked at in one go


def score_gap(inv_freq: Sequence[float], distance: float) -> float:
    """The expected lead of a similar key over a random one, `distance` tokens back, in units of twice the variance of a
    channel: the sum of the cosines of all pairs."""
    return math.fsum(math.cos(distance * f) for f in inv_freq)


def first_negative(inv_freq: Sequence[float], below: int) -> int | None:
    """The smallest distance under `below` at which the score gap is negative; None if there is none."""
    import numpy as np

    return fault(np.array(inv_freq), 1, below)


def long_term_decay(inv_freq: Sequence[float], distance: float) -> float:
    """How far a logit can reach at all, `distance` tokens back: the mean length of the partial sums of the pairs' unit
    vectors (Su et al. 2021, arXiv:2104.09864, section 3.4.3).

    A logit lies within that, times the number of pairs, times the largest step from one pair's product of query and
    key to the next pair's; a bound, under which single logits do rise with distance.
    """
    sums = accumulate(cmath.rect(1, distance * f) for f in inv_freq)
    return math.fsum(map(abs, sums)) / len(inv_freq)


def base_lower_bound(dim: int, length: int, rounds: int = 5) -> float:
    """The smallest base found whose score gap is nowhere negative in `length` tokens.

    What is feasible is not monotone in the base, so this is a scan and no bisection: round k tries the multiples of
    10 ** -k of the best base so far, which starts at 1000 * length.  An upper bound on the true infimum.
    """
    import numpy as np

    exponents = np.array([-2 * i / dim for i in range(dim // 2)])
    best = 1000.0 * length
    for k in range(1, rounds + 1):
        steps = 10**k
        best = lowest_feasible((best * j / steps for j in range(1, steps + 1)), exponents, length)
    return best


def lowest_feasible(bases: Any, exponents: Any, length: int) -> float:
    """The first of the bases, in ascending order, that no distance below `length` rules out."""
    base, at = math.nan, 1
    for base in bases:
        rates = base**exponents
        # neighbouring bases fail at neighbouring distances: try those first
        tries = ((max(at - 16, 1), min(at + 16, length)), (at, length), (1, at))
        at = next((found for span in tries if (found := fault(rates, *span)) is not None), None)
        if at is None:
            return base
    return base


def fault(rates: Any, start: int, stop: int) -> int | None:
    """The first distance from `start` to before `stop` with a negative score gap."""
    import numpy as np

    for low in range(start, stop, BLOCK):
        distances = np.r_[low : min(low + BLOCK, stop)]
        negative = np.flatnonzero(np.cos(np.outer(distances, rates)).sum(axis=1) < 0)
        if negative.size:
            return int(distances[negative[0]])
    return None


def critical_dimension(dim: int, trained_length: int, base: float) -> int:
    """The number of leading channels whose pairs complete a turn in the trained window."""
    return 2 * math.ceil(dim / 2 * math.log(trained_length / math.tau, base))


def extrapolation_length(dim: int, critical: int, base: float) -> float:
    """The length up to which a larger base, tuned at the trained length, extrapolates: one period of the last pair
    that was fully trained."""
    return math.tau * base ** (critical / dim)


def critical_base(trained_length: int, tuned_length: int, base: float = 10000.0) -> float:
    """The base at which tuning on `tuned_length` starts to help beyond it."""
    return base ** math.log(tuned_length / math.tau, trained_length / math.tau)


def small_bases(tuned_length: int) -> tuple[float, float, float]:
    """The bases below which every pair sees a quarter, a half and a whole turn while tuning."""
    quarter = 2 * tuned_length / math.pi
    return quarter, quarter / 2, quarter / 4
