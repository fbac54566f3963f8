"""What a format cannot carry, and how far what it does carry is from what was meant."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.formats.layers import Layer, rotary_of
from ropewalk.spectrum import Adapts, for_length

STILL_RATE = 1e-15  # radians per position that count as none
DISTANCES = 256  # that are looked at between 1 and the length, evenly in their logarithm


class Loss(NamedTuple):
    """One thing that a target cannot carry. With figures of 0, 1 and 0 what was written is exact where it is read."""

    what: str  # what the target cannot carry
    instead: str = ""  # the nearest form, which was written
    frequency: float = 0.0  # largest relative difference of a pair's rate
    magnitude: float = 1.0  # on queries and on keys: got / wanted
    logits: float = 0.0  # largest change of a logit, in units of |q||k|

    def __str__(self) -> str:
        figures = [
            f"rates differ by up to {100 * self.frequency:.2g} %" if self.frequency else "",
            f"the magnitude is {self.magnitude:.6g} times what was meant" if self.magnitude != 1 else "",
            f"logits change by up to {self.logits:.2g} |q||k|" if self.logits else "",
        ]
        parts = [self.what, self.instead and f"written instead: {self.instead}", ", ".join(filter(None, figures))]
        return "; ".join(filter(None, parts))


class Figures(NamedTuple):
    """How far two lists of encodings are apart: the numbers of a Loss."""

    frequency: float = 0.0
    magnitude: float = 1.0
    logits: float = 0.0


def measure(wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> Figures:
    """How far `got` is from `wanted` in texts of `length` tokens, in the worst layer for each figure.

    A rate that should be 0 and is not counts as a difference of 1. The logits are those of queries and keys with equal
    energy in every pair that rotates and the least favourable phases, `length` - 1 tokens apart at most. Layers must
    rotate the same channels in the same pairs: no figure says how far other channels are off.
    """
    both = dict.fromkeys((rotary_of(a), rotary_of(b)) for a, b in zip(wanted, got, strict=True))
    each = [compare(a, b, length) for a, b in both if a and b and a != b]
    if not each:
        return Figures()
    rates, magnitudes, logits = zip(*each, strict=True)
    return Figures(max(rates), max(magnitudes, key=lambda m: abs(math.log(m))), max(logits))


def compare(wanted: Rotary, got: Rotary, length: int) -> Figures:
    """The figures of one layer."""
    a, b = (for_length(e, length).spectrum() for e in (wanted, got))
    pairs = list(zip(a.inv_freq, b.inv_freq, strict=True))
    apart = [g - f for f, g in pairs]
    # two turns by x and y of lengths p and q end p^2 + q^2 - 2 p q cos(x - y) apart, squared
    p, q = a.magnitude**2, b.magnitude**2
    logits = (math.fsum(gap(p, q, n * d) for d in apart) / len(apart) for n in distances(length))
    return Figures(max(relative(f, g) for f, g in pairs), b.magnitude / a.magnitude, max(logits))


def relative(wanted: float, got: float) -> float:
    if abs(wanted) <= STILL_RATE:
        return float(abs(got) > STILL_RATE)
    return abs(got - wanted) / abs(wanted)


def gap(p: float, q: float, angle: float) -> float:
    """The distance between the ends of two arrows of lengths p and q with `angle` between them."""
    return math.hypot(p - q, 2 * math.sqrt(p * q) * math.sin(angle / 2))


def distances(length: int) -> Iterator[float]:
    yield 0.0
    for i in range(DISTANCES):
        yield max(length - 1, 1) ** (i / (DISTANCES - 1))


def loss(what: str, instead: str, wanted: Sequence[Layer], got: Sequence[Layer], length: int) -> Loss:
    """A loss with the figures of `got` against `wanted` in texts of `length` tokens."""
    return Loss(what, instead, *measure(wanted, got, length))


def frozen(e: Rotary, fixed: Rotary, length: int) -> Loss | None:
    """What it costs that a rule which follows the length is kept as it is at `length`; None if nothing.

    The figures are those of texts that end in the trained window, where the rule would bend least.
    """
    if fixed == e:
        return None
    moving = [rule for rule in e.scaling if isinstance(rule, Adapts)]
    names = ", ".join(type(rule).__name__ for rule in moving)
    short = min(length, *(getattr(rule, "trained_length", length) for rule in moving))
    what = f"{names} follows the length of the text, and a text of {short} tokens should be bent less"
    found = loss(what, f"the rule frozen as it is at {length} tokens", [e], [fixed], short)
    return found if found[2:] != Figures() else None


def covers(losses: Sequence[Loss], figures: Figures) -> bool:
    """Whether some loss admits to at least these figures, up to the rounding of float32."""
    near = 1 + 1e-6
    rates = max((found.frequency for found in losses), default=0.0)
    magnitudes = max((abs(math.log(found.magnitude)) for found in losses), default=0.0)
    return figures.frequency <= rates * near + 1e-6 and abs(math.log(figures.magnitude)) <= magnitudes * near + 1e-6
