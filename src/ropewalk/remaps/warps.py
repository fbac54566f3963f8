"""Positions that grow more slowly beyond the trained length, and as they are up to there.

Moving positions this way makes a logit depend on where two tokens stand and not only on how far apart: they are
baselines. `WarpedDistance` applies a warp to distances instead.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require_number
from ropewalk.tokens import Tokens


class Warps:
    """Makes a map of Tokens out of a function of one coordinate."""

    trained_length: int

    def warp(self, m: Tensor) -> Tensor:
        """Float64, shaped like m: coordinates up to the trained length as they are, the others nearer to it."""
        m = m.double()
        return torch.where(m > self.trained_length, self.beyond(m.clamp(min=self.trained_length)), m)

    def beyond(self, m: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, at: Tokens) -> Tokens:
        """The same tokens with every coordinate warped."""
        return at._replace(position=self.warp(at.position))


@dataclass(frozen=True)
class Piecewise(Warps):
    """Beyond the trained length L a token counts for `alpha` tokens: L + alpha * (m - L)."""

    trained_length: int
    alpha: float = 0.25

    def __post_init__(self) -> None:
        require_number(self, "trained_length", at_least=1, whole=True)
        require_number(self, "alpha", above=0, at_most=1)

    def beyond(self, m: Tensor) -> Tensor:
        """The warped coordinates of those beyond the trained length."""
        return self.trained_length + self.alpha * (m - self.trained_length)


@dataclass(frozen=True)
class Saturating(Warps):
    """Beyond the trained length L positions tend to L / alpha: m / (1 + alpha * (m - L) / L); all are L for 1."""

    trained_length: int
    alpha: float = 0.5

    def __post_init__(self) -> None:
        require_number(self, "trained_length", at_least=1, whole=True)
        require_number(self, "alpha", above=0, at_most=1)

    def beyond(self, m: Tensor) -> Tensor:
        """The warped coordinates of those beyond the trained length."""
        return m / (1 + self.alpha * (m - self.trained_length) / self.trained_length)


@dataclass(frozen=True)
class Power(Warps):
    """Beyond the trained length L positions grow as a power: m * (L / m) ** beta."""

    trained_length: int
    beta: float = 0.5

    def __post_init__(self) -> None:
        require_number(self, "trained_length", at_least=1, whole=True)
        require_number(self, "beta", above=0, at_most=1)

    def beyond(self, m: Tensor) -> Tensor:
        """The warped coordinates of those beyond the trained length."""
        return m * (self.trained_length / m) ** self.beta
