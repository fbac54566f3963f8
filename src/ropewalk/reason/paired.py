"""Two methods on the same problems: what one gains on the other, with an interval."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ropewalk.errors import require
from ropewalk.evaluate.metrics.accuracy import wilson


class Difference(NamedTuple):
    """A difference of two shares of the same problems and its 95 % interval."""

    gained: int  # right under the first method alone
    lost: int  # right under the second alone
    asked: int
    difference: float
    low: float
    high: float


def difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """The share that `first` has right minus that of `second`, problem by problem.

    The interval is method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635): Wilson intervals of both shares, put
    together with the correlation of the pairs, which is taken a little nearer to zero where it is positive. It stays
    honest where all or none are right.
    """
    require(len(first) == len(second), "difference.second", f"of {len(first)} problems", len(second))
    n, both = len(first), sum(a and b for a, b in zip(first, second, strict=True))
    gained, lost = sum(first) - both, sum(second) - both
    neither = n - both - gained - lost
    one, other = wilson(sum(first), n), wilson(sum(second), n)
    if n == 0:
        return Difference(0, 0, 0, 0.0, -1.0, 1.0)
    p, q = one.found / n, other.found / n
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    excess = both * neither - gained * lost
    phi = (max(excess - n / 2, 0.0) if excess > 0 else excess) / math.sqrt(margins) if margins else 0.0
    low = math.sqrt(max(apart(p - one.low, other.high - q, phi), 0.0))
    high = math.sqrt(max(apart(one.high - p, q - other.low, phi), 0.0))
    return Difference(gained, lost, n, p - q, p - q - low, p - q + high)


def apart(a: float, b: float, phi: float) -> float:
    """The square of what two correlated distances make up."""
    return a * a - 2 * phi * a * b + b * b
