"""p-RoPE: the slowest pairs do not turn. Barbero et al. 2024, arXiv:2410.06205; Hugging Face's `proportional`."""

from dataclasses import dataclass

from ropewalk.errors import require_number
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class Proportional:
    """Stops all but the fastest `fraction` of the pairs, rounded down, and slows those that turn by `factor`.

    Stopped pairs pass their channels on without a position; a fraction of 0 is NoPE.
    """

    fraction: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        require_number(self, "fraction", at_least=0, at_most=1)
        require_number(self, "factor", at_least=1)

    def __call__(self, s: Spectrum) -> Spectrum:
        turning = int(self.fraction * len(s.inv_freq))
        return s._replace(inv_freq=tuple(f / self.factor if i < turning else 0.0 for i, f in enumerate(s.inv_freq)))
