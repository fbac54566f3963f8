"""Another base: adjusted base frequency. Xiong et al. 2023, arXiv:2309.16039; also Code Llama."""

from dataclasses import dataclass

from ropewalk.errors import ConfigError, require_number
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class BaseChange:
    """Turns a spectrum whose rates fall by a constant ratio into the one of `base`, keeping its fastest rate.

    Raises ConfigError on a spectrum that another rule has bent unequally: put this rule first.
    """

    base: float

    def __post_init__(self) -> None:
        require_number(self, "base", above=1)

    def __call__(self, s: Spectrum) -> Spectrum:
        pairs, old = len(s.inv_freq), base_of(s)
        if old is None:
            raise ConfigError(f"BaseChange must be given rates that fall by a constant ratio, got {s.inv_freq}")
        return s._replace(inv_freq=tuple(f * (self.base / old) ** (-i / pairs) for i, f in enumerate(s.inv_freq)))


def base_of(s: Spectrum) -> float | None:
    """The base whose powers the rates are, up to a common factor; None if there is none (to 1e-9) or just one pair."""
    pairs, first, last = len(s.inv_freq), s.inv_freq[0], s.inv_freq[-1]
    if pairs < 2 or last <= 0:
        return None
    fit = (first * (last / first) ** (i / (pairs - 1)) for i in range(pairs))
    even = all(abs(f - g) <= 1e-9 * g for f, g in zip(s.inv_freq, fit, strict=True))
    return (first / last) ** (pairs / (pairs - 1)) if even else None
