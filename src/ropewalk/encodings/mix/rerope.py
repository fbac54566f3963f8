"""Distances that stop growing, or grow more slowly. Su 2023, kexue.fm/archives/9708 (ReRoPE and Leaky ReRoPE)."""

from dataclasses import dataclass

from ropewalk.encodings.mix.branches import Branch, Branches, capped, require_rotary
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require_number
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class ReRope(Branches):
    """Every key `window` tokens away or further gets the logit of a key at exactly that distance."""

    rotary: Rotary
    window: int = 512

    def __post_init__(self) -> None:
        require_rotary(self)
        require_number(self, "window", at_least=1, whole=True)

    def branches(self, q_at: Tokens, k_at: Tokens) -> list[Branch]:
        """As they stand; from `window` on, the query at `window` and every key at 0."""
        return capped(q_at, k_at, self.window)


@dataclass(frozen=True)
class LeakyReRope(Branches):
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

    def branches(self, q_at: Tokens, k_at: Tokens) -> list[Branch]:
        """As they stand; from `window` on, both counted in steps of `factor` and `window` made up for."""
        near, far = capped(q_at, k_at, self.window)
        rest = self.window - self.window / self.factor
        return [near, Branch(near.query.double() / self.factor + rest, near.key.double() / self.factor, far.where)]
