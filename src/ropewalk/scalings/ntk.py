"""NTK-aware scaling. bloc97 2023; formalised in Peng et al. 2023, arXiv:2309.00071, section 3.1."""

from dataclasses import dataclass

from ropewalk.errors import require_number
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class NTK:
    """Slows the slowest pair by `factor`, the fastest not at all, the others geometrically in between.

    The same as raising the base to base * factor ** (d / (d - 2)), and defined on a spectrum already bent as well.
    """

    factor: float

    def __post_init__(self) -> None:
        require_number(self, "factor", at_least=1)

    def __call__(self, s: Spectrum) -> Spectrum:
        last = max(len(s.inv_freq) - 1, 1)
        return s._replace(inv_freq=tuple(f * self.factor ** (-i / last) for i, f in enumerate(s.inv_freq)))
