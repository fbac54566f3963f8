"""The first tokens and the last ones, no distance beyond a limit. Han et al. 2024, arXiv:2308.16137 (LM-Infinite)."""

from dataclasses import dataclass

from torch import Tensor

from ropewalk.encodings.mix.branches import require_rotary
from ropewalk.encodings.mix.near import Capped
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require_number
from ropewalk.tokens import Tokens, distance, line


@dataclass(frozen=True)
class LMInfinite(Capped):
    """Hides keys `window` tokens away or further, but for the first `sinks`: those get the logit of that distance.

    The window is the trained length.
    """

    rotary: Rotary
    window: int
    sinks: int = 10

    def __post_init__(self) -> None:
        require_rotary(self)
        require_number(self, "window", at_least=1, whole=True)
        require_number(self, "sinks", at_least=0, whole=True)

    def visible(self, q_at: Tokens, k_at: Tokens) -> Tensor:
        """Bool[B, Q, K]: the keys of the last `window` tokens and the first `sinks` of the document."""
        return (distance(q_at, k_at) < self.window) | (line(k_at, "LMInfinite") < self.sinks)[:, None, :]

    def kept(self) -> tuple[int, int]:
        """How many of the first and of the last tokens a cache has to keep."""
        return self.sinks, self.window
