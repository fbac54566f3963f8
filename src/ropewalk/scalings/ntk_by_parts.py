"""NTK by parts. bloc97 2023; definition 2 of Peng et al. 2023, arXiv:2309.00071.

Paper and code: definition 2 mixes two spectra; the first release mixed three, with other constants. We follow the
paper; ntk_turns gives the release.
"""

from dataclasses import dataclass

from ropewalk.errors import require, require_number
from ropewalk.scalings.linear import Linear
from ropewalk.scalings.ntk import NTK
from ropewalk.scalings.ramps import check_ramp, mix, ramp_over_index, ramp_over_turns, slow
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class NTKByParts:
    """Slows a pair by `factor` if it makes at most `beta_slow` turns in the trained window, keeps it from `beta_fast`
    turns on, and mixes in between, linearly in turns.

    `ntk_turns=(fast, slow)` is the rule as first released, with ramps over pair indices: the slowest pairs are slowed
    by `factor`, those from `fast` turns on by NTK.  It was published with (1.25, 0.75), beta_fast=16 and beta_slow=2.
    """

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    ntk_turns: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        require_number(self, "factor", at_least=1)
        check_ramp(self)
        ends = self.ntk_turns
        numbers = isinstance(ends, tuple) and len(ends) == 2 and all(type(t) in (int, float) for t in ends)
        rule = "two numbers, the first above the second and both above 0"
        require(ends is None or (numbers and ends[0] > ends[1] > 0), "NTKByParts.ntk_turns", rule, ends)

    def __call__(self, s: Spectrum) -> Spectrum:
        if self.ntk_turns is None:
            return slow(s, self.factor, ramp_over_turns(s, self.trained_length, self.beta_fast, self.beta_slow))
        linear, ntk = Linear(self.factor)(s).inv_freq, NTK(self.factor)(s).inv_freq
        inner = ramp_over_index(s, self.trained_length, *self.ntk_turns)
        outer = ramp_over_index(s, self.trained_length, self.beta_fast, self.beta_slow)
        pairs = zip(linear, ntk, s.inv_freq, inner, outer, strict=True)
        return s._replace(inv_freq=tuple(mix(mix(a, b, k), kept, keep) for a, b, kept, k, keep in pairs))
