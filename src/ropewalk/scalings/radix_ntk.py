"""Scaling in a larger radix. Su 2023, kexue.fm/archives/9675 (old, fixed) and 9706 (mixed)."""

from dataclasses import dataclass

from ropewalk.errors import require, require_number
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class RadixNTK:
    """Reads positions as digits, one per pair, and enlarges the radix so that there is room for `factor` times more.

    "old" raises the base to base * factor; "fixed" slows the slowest of P pairs by `factor` and pair i by
    factor ** ((i + 1) / P); "mixed" puts that fraction to the power `exponent`, so that fast pairs take a larger
    share (0 is linear interpolation, 1 is "fixed").
    """

    factor: float
    variant: str = "mixed"  # or "old" or "fixed"
    exponent: float = 0.625

    def __post_init__(self) -> None:
        require_number(self, "factor", at_least=1)
        known = self.variant in ("mixed", "old", "fixed")
        require(known, "RadixNTK.variant", "'mixed', 'old' or 'fixed'", self.variant)
        require_number(self, "exponent", at_least=0, at_most=1)
        used = self.variant == "mixed" or self.exponent == RadixNTK.exponent
        require(used, "RadixNTK.exponent", "left alone unless variant is 'mixed'", self.exponent)

    def __call__(self, s: Spectrum) -> Spectrum:
        pairs = len(s.inv_freq)
        digit = 0 if self.variant == "old" else 1
        power = self.exponent if self.variant == "mixed" else 1.0
        shares = (((i + digit) / pairs) ** power for i in range(pairs))
        return s._replace(inv_freq=tuple(f * self.factor**-x for f, x in zip(s.inv_freq, shares, strict=True)))
