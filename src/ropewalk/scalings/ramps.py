"""What scalings share: which pairs are kept, which are slowed, and how the two are mixed.

A ramp is one number per pair: 1 where the pair keeps its rate, 0 where it is slowed in full.
"""

import math

from ropewalk.errors import require, require_number
from ropewalk.spectrum import Spectrum

Ramp = list[float]


def mix(slowed: float, kept: float, keep: float) -> float:
    """`slowed` where keep is 0, `kept` where keep is 1; that very number where the two are equal."""
    return kept if slowed == kept else slowed * (1 - keep) + kept * keep


def slow(s: Spectrum, factor: float, ramp: Ramp) -> Spectrum:
    """Every rate divided by `factor` to the extent that its pair is not kept."""
    return s._replace(inv_freq=tuple(mix(f / factor, f, k) for f, k in zip(s.inv_freq, ramp, strict=True)))


def ramp_over_turns(s: Spectrum, trained_length: int, fast: float, slow: float) -> Ramp:
    """Kept from `fast` turns in the trained window on, slowed up to `slow`, linear in turns in between."""
    turns = (trained_length * f / math.tau for f in s.inv_freq)
    return [clip((n - slow) / (fast - slow)) for n in turns]


def ramp_over_index(s: Spectrum, trained_length: int, fast: float, slow: float, truncate: bool = True) -> Ramp:
    """The same two ends, linear in the index of the pair in between (the authors' code of YaRN)."""
    low, high = index_range(s, trained_length, fast, slow, truncate)
    return [1 - clip((i - low) / (high - low)) for i in range(len(s.inv_freq))]


def index_range(s: Spectrum, trained_length: int, fast: float, slow: float, truncate: bool) -> tuple[float, float]:
    """The pair indices between which a ramp falls from kept to slowed; `truncate` rounds them outwards."""
    low, high = index_of(s, trained_length, fast), index_of(s, trained_length, slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    # the released code clamps at d - 1, although indices end at d / 2 - 1
    low, high = (min(max(end, 0), 2 * len(s.inv_freq) - 1) for end in (low, high))
    return (low, high + 0.001) if low == high else (low, high)


def index_of(s: Spectrum, trained_length: int, turns: float) -> float:
    """The fractional index of the pair that makes `turns` turns in the trained window."""
    moving = [f for f in s.inv_freq if f > 0]
    ends = tuple(moving[:1] + moving[1:][-1:])
    require(len(ends) == 2 and ends[0] > ends[1], "rates under a ramp over indices", "falling over two pairs", ends)
    step = math.log(ends[0] / ends[1]) / (len(moving) - 1)
    return math.log(trained_length * ends[0] / (math.tau * turns)) / step


def clip(x: float) -> float:
    """x, kept inside 0 to 1."""
    return min(max(x, 0.0), 1.0)


def check_ramp(rule: object, fast: str = "beta_fast", slow: str = "beta_slow") -> None:
    """Raise ConfigError unless the window is positive and the two ends of the ramp, in turns, are in order."""
    require_number(rule, "trained_length", at_least=1, whole=True)
    require_number(rule, slow, above=0)
    require_number(rule, fast, above=getattr(rule, slow))
