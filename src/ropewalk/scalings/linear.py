"""Position interpolation. Chen et al. 2023, arXiv:2306.15595."""

from dataclasses import dataclass

from ropewalk.errors import require_number
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class Linear:
    """Slows every pair by `factor`: positions are squeezed into the trained window, at the price of resolution."""

    factor: float

    def __post_init__(self) -> None:
        require_number(self, "factor", at_least=1)

    def __call__(self, s: Spectrum) -> Spectrum:
        return s._replace(inv_freq=tuple(f / self.factor for f in s.inv_freq))
