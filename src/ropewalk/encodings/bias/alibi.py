"""Attention with linear biases. Press et al. 2022, arXiv:2108.12409 (ALiBi)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require_number
from ropewalk.sites import OfDistance, Weights


@dataclass(frozen=True)
class Alibi(OfDistance):
    """Lowers a logit by `slope * distance`, each head with a slope of its own; keys ahead count like keys behind.

    Slopes fall from 2 ** (-max_exponent / n) to 2 ** -max_exponent when the number n of heads is a power of two;
    otherwise those of the power below come first, then every other one of the power above.
    """

    heads: int
    max_exponent: float = 8.0

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)
        require_number(self, "max_exponent", above=0)

    def slopes(self) -> tuple[float, ...]:
        """Each head's cost of one token of distance."""
        below = 1 << (self.heads.bit_length() - 1)
        return (*self.geometric(below), *self.geometric(2 * below)[::2])[: self.heads]

    def geometric(self, count: int) -> tuple[float, ...]:
        """The slopes of a power of two of heads."""
        return tuple(2.0 ** (-self.max_exponent * k / count) for k in range(1, count + 1))

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        """Float32[H, N]: minus the slope times the distance."""
        slopes = torch.tensor(self.slopes(), dtype=torch.float64, device=d.device)
        return (-slopes[:, None] * d.abs()).float()
