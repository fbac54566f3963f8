"""Attention with linear biases. Press et al. 2022, arXiv:2108.12409 (ALiBi).

Paper and code: for heads that are no power of two the paper's code takes the slopes of the power below and then every
other one of the power above; MPT orders those of the power above, with the same outcome.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.errors import require_number
from ropewalk.sites import OfDistance, Weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Alibi(OfDistance):
    """Lowers a logit by `slope * distance`, each head with a slope of its own; a key ahead costs `ahead` times that.

    Slopes fall from 2 ** (-max_exponent / n) to 2 ** -max_exponent when the number n of heads is a power of two;
    otherwise those of the power below come first, then every other one of the power above. BLOOM adds
    `slope * position of the key`: the same after the softmax.
    """

    heads: int
    max_exponent: float = 8.0
    ahead: float = 1.0  # 1 is symmetric, for encoders; a causal mask hides what is ahead
    first: int = 0  # of the heads that a rank holds, where ranks share them out
    count: int | None = None  # of the heads that a rank holds; None: all from the first on

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)
        require_number(self, "max_exponent", above=0)
        require_number(self, "ahead", at_least=0)
        require_number(self, "first", at_least=0, at_most=self.heads - 1, whole=True)
        if self.count is not None:
            require_number(self, "count", at_least=1, at_most=self.heads - self.first, whole=True)

    def slopes(self) -> tuple[float, ...]:
        """What one token of distance costs, for each head that is held."""
        below = 1 << (self.heads.bit_length() - 1)
        every = (*self.geometric(below), *self.geometric(2 * below)[::2])[: self.heads]
        return every[self.first :][: self.count]

    def geometric(self, count: int) -> tuple[float, ...]:
        """The slopes of a power of two of heads."""
        return tuple(2.0 ** (-self.max_exponent * k / count) for k in range(1, count + 1))

    def of_distance(self, w: Weights, d: "Tensor") -> "Tensor":
        """Float32[H, N]: minus the slope times the distance, rounded once."""
        far = d.double()
        slopes = far.new_tensor(self.slopes())
        return (-slopes[:, None] * far.where(far >= 0, -self.ahead * far)).float()
