"""Functional interpolation for relative position. Li et al. 2023, arXiv:2310.04418 (FIRE).

Paper and code: public copies differ in where eps and the absolute values stand. Here eps is added to the denominator,
and c, the distance and the threshold are taken without sign.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.bias.hinges import rectified
from ropewalk.errors import require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance, line

NAMES = ("fire_c", "fire_reach", "fire_in", "fire_in_shift", "fire_out", "fire_out_shift")


@dataclass(frozen=True)
class Fire:
    """Adds to a logit a learned function, one output per head, of the distance as a fraction of the query's position.

    Both are taken as log(1 + c * n), and a query nearer to the start than the threshold counts as standing there: the
    fraction stays between 0 and 1 at any length, and beyond the threshold the bias is not a function of distance alone.
    The function has one hidden layer of `hidden` rectified units; c and a multiplier of the threshold are learned too.
    """

    heads: int
    hidden: int = 32
    threshold: float = 512.0
    eps: float = 1e-6  # keeps the fraction finite at the very start

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)
        require_number(self, "hidden", at_least=1, whole=True)
        require_number(self, "threshold", above=0)
        require_number(self, "eps", above=0)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Float32: c 0.1 [1], the multiplier 1 [1], and the layers [hidden] x 2, [heads, hidden], [heads].

        A layer starts from U(-r, r), where r is the inverse root of the number of its inputs.
        """
        shapes = ((self.hidden,), (self.hidden,), (self.heads, self.hidden), (self.heads,))
        bounds = (1.0, 1.0, self.hidden**-0.5, self.hidden**-0.5)
        layers = [r * (2 * torch.rand(s, generator=draw) - 1) for s, r in zip(shapes, bounds, strict=True)]
        return dict(zip(NAMES, (torch.tensor([0.1]), torch.ones(1), *layers), strict=True))

    def bias(self, w: Weights, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, heads, Q, K] in the weights' dtype, float32 at least; the side on which a key stands does not count."""
        wide = torch.promote_types(w["fire_c"].dtype, torch.float32)
        c, reach, rise, rise_shift, out, out_shift = (w[name].to(wide) for name in NAMES)
        span = torch.maximum(line(q_at, "Fire").to(wide), (reach * self.threshold).abs())
        far = distance(q_at, k_at).abs().to(wide)
        part = (c.abs() * far).log1p() / ((c.abs() * span).log1p() + self.eps)[..., None]
        return rectified(part, rise, rise_shift, out, out_shift).transpose(0, 1)
