"""The scaling of Llama 3.1. Grattafiori et al. 2024, arXiv:2407.21783; as in the released code."""

from dataclasses import dataclass

from ropewalk.errors import require_number
from ropewalk.scalings.ramps import check_ramp, ramp_over_turns, slow
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class Llama3:
    """Slows a pair by `factor` if it makes at most `low_freq_factor` turns in the trained window, keeps it from
    `high_freq_factor` turns on, and mixes in between, linearly in turns: NTK by parts with other ends."""

    factor: float
    trained_length: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        require_number(self, "factor", at_least=1)
        check_ramp(self, fast="high_freq_factor", slow="low_freq_factor")

    def __call__(self, s: Spectrum) -> Spectrum:
        ramp = ramp_over_turns(s, self.trained_length, self.high_freq_factor, self.low_freq_factor)
        return slow(s, self.factor, ramp)
