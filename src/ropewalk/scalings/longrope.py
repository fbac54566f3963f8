"""LongRoPE: two lists of divisors and a switch. Ding et al. 2024, arXiv:2402.13753; as in Phi-3."""

import math
from dataclasses import dataclass

from ropewalk.errors import require, require_number
from ropewalk.scalings.rescale import Rescale, check_factors


@dataclass(frozen=True)
class LongRope:
    """Divides each pair's rate by its short factor in texts up to `trained_length`, by its long factor in longer ones.

    `factor` is the extended window over the trained one; at any length it makes rotated vectors larger by
    sqrt(1 + ln(factor) / ln(trained_length)).  `magnitude` overrides that; with neither, vectors keep their length.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    trained_length: int
    factor: float | None = None
    magnitude: float | None = None

    def __post_init__(self) -> None:
        check_factors(self, "short_factor")
        check_factors(self, "long_factor")
        pairs = len(self.short_factor)
        require(len(self.long_factor) == pairs, "LongRope.long_factor", f"{pairs} numbers long", self.long_factor)
        require_number(self, "trained_length", at_least=2, whole=True)
        if self.factor is not None:
            require_number(self, "factor", at_least=1)
        if self.magnitude is not None:
            require_number(self, "magnitude", above=0)

    def at(self, length: int) -> Rescale:
        """The rule for texts of `length` tokens."""
        factors = self.long_factor if length > self.trained_length else self.short_factor
        return Rescale(factors, self.effective_magnitude())

    def effective_magnitude(self) -> float:
        """The factor on rotated queries and on rotated keys."""
        if self.magnitude is not None:
            return self.magnitude
        return math.sqrt(1 + math.log(self.factor or 1) / math.log(self.trained_length))
