"""HoPE: pairs too slow to turn once stand still. Chen et al. 2024, arXiv:2410.21216 (not the hyperbolic HoPE).

Paper and code: three unrelated papers are called HoPE, and this is the high-frequency one. Its exact cut-off was not
verified; `keep` overrides ours.
"""

import math
from dataclasses import dataclass

from ropewalk.errors import require, require_number
from ropewalk.spectrum import Spectrum


@dataclass(frozen=True)
class Hope:
    """Stops every pair that completes no turn in the trained window: what is left of a logit there is content alone.

    The paper keeps the fast pairs and gives the others no position; that one turn in the window parts the two is a
    rule chosen here. `keep` sets the number of turning pairs, the first ones, in its place.
    """

    trained_length: int
    keep: int | None = None

    def __post_init__(self) -> None:
        require_number(self, "trained_length", at_least=1, whole=True)
        if self.keep is not None:
            require_number(self, "keep", at_least=0, whole=True)

    def __call__(self, s: Spectrum) -> Spectrum:
        pairs = len(s.inv_freq)
        require(self.keep is None or self.keep <= pairs, "Hope.keep", f"of at most {pairs} pairs", self.keep)
        turns = (f * self.trained_length / math.tau for f in s.inv_freq)
        turning = [n >= 1 if self.keep is None else i < self.keep for i, n in enumerate(turns)]
        return s._replace(inv_freq=tuple(f if t else 0.0 for f, t in zip(s.inv_freq, turning, strict=True)))
