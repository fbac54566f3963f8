"""One divisor per pair, searched or given. Ding et al. 2024, arXiv:2402.13753 (LongRoPE)."""

from dataclasses import dataclass

from ropewalk.errors import require, require_number
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class Rescale:
    """Divides each pair's rate by its own factor, and multiplies rotated vectors by `magnitude`."""

    factors: tuple[float, ...]  # one divisor per pair
    magnitude: float = 1.0

    def __post_init__(self) -> None:
        check_factors(self, "factors")
        require_number(self, "magnitude", above=0)

    def __call__(self, s: Spectrum) -> Spectrum:
        pairs = len(s.inv_freq)
        require(len(self.factors) == pairs, "Rescale.factors", f"{pairs} numbers, one per pair", self.factors)
        divided = tuple(f / by for f, by in zip(s.inv_freq, self.factors, strict=True))
        return Spectrum(divided, s.magnitude * self.magnitude)


def check_factors(rule: object, field: str) -> None:
    """Raise ConfigError unless the field is a tuple of positive numbers."""
    got = getattr(rule, field)
    ok = isinstance(got, tuple) and bool(got) and all(type(f) in (int, float) and 0 < f < float("inf") for f in got)
    require(ok, f"{type(rule).__name__}.{field}", "a tuple of positive numbers, one per pair", got)
