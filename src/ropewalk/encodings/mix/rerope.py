"""Distances that stop growing, or grow more slowly. Su 2023, kexue.fm/archives/9708 (ReRoPE and Leaky ReRoPE)."""

from dataclasses import dataclass

from torch import Tensor

from ropewalk.encodings.mix.branches import require_rotary
from ropewalk.encodings.mix.near import Capped, Near
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require_number
from ropewalk.tokens import Tokens, line


@dataclass(frozen=True)
class ReRope(Capped):
    """Every key `window` tokens away or further gets the logit of a key at exactly that distance."""

    rotary: Rotary
    window: int = 512

    def __post_init__(self) -> None:
        require_rotary(self)
        require_number(self, "window", at_least=1, whole=True)


@dataclass(frozen=True)
class LeakyReRope(Near):
    """From `window` tokens on, a distance grows by 1 / factor per token: the logit is that of a nearer key.

    A model trained on L tokens reads N of them if the factor is at least (N - window) / (L - window).
    """

    rotary: Rotary
    window: int = 512
    factor: float = 16.0

    def __post_init__(self) -> None:
        require_rotary(self)
        require_number(self, "window", at_least=1, whole=True)
        require_number(self, "factor", at_least=1)

    def queries(self, at: Tokens) -> list[Tensor]:
        """As they stand; from `window` on counted in steps of `factor`, with the window made up for."""
        i = line(at, "LeakyReRope")
        return [i, i.double() / self.factor + (self.window - self.window / self.factor)]

    def keys(self, at: Tokens) -> list[Tensor]:
        """As they stand; from `window` on counted in steps of `factor`."""
        j = line(at, "LeakyReRope")
        return [j, j.double() / self.factor]
