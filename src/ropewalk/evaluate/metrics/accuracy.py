"""Shares of right answers, with the interval that few trials deserve."""

import math
from typing import NamedTuple

from ropewalk.errors import require

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


class Share(NamedTuple):
    """`found` of `asked`, and the 95 % Wilson interval of the underlying rate."""

    found: int
    asked: int
    low: float
    high: float


def wilson(found: int, asked: int) -> Share:
    """The Wilson score interval (1927), which stays honest at 0 and at `asked`; [0, 1] when nothing was asked."""
    require(0 <= found <= asked, "wilson.found", f"from 0 to {asked}", found)
    if asked == 0:
        return Share(0, 0, 0.0, 1.0)
    rate, z2 = found / asked, Z95**2
    centre = (rate + z2 / (2 * asked)) / (1 + z2 / asked)
    spread = Z95 * math.sqrt(rate * (1 - rate) / asked + z2 / (4 * asked**2)) / (1 + z2 / asked)
    low = 0.0 if found == 0 else centre - spread
    high = 1.0 if found == asked else centre + spread
    return Share(found, asked, low, high)
