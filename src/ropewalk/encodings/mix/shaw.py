"""Relative position representations. Shaw et al. 2018, arXiv:1803.02155; fixed tables: NEZHA, arXiv:1909.00204."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.absolute.sinusoidal import Sinusoidal
from ropewalk.encodings.mix.lookup import pick
from ropewalk.encodings.rotary.turning import angles
from ropewalk.errors import require_even, require_flag, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance, whole


@dataclass(frozen=True)
class Shaw:
    """Adds to each key, and to each value, a vector for how far ahead of the query it stands.

    Distances are clipped to `behind` and `ahead`. The tables of vectors are learned, one for keys and one for values,
    or `fixed`: one sinusoid for both. Heads share them; the scale is dim ** -0.5.
    """

    dim: int
    behind: int = 16
    ahead: int = 16
    fixed: bool = False

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "behind", at_least=0, whole=True)
        require_number(self, "ahead", at_least=0, whole=True)
        require_flag(self, "fixed")
        if self.fixed:
            require_even(self, "dim")

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Two tables, Float32[behind + ahead + 1, dim], drawn from N(0, 0.02); nothing where they are fixed."""
        shape = (self.behind + self.ahead + 1, self.dim)
        names = () if self.fixed else ("shaw_key", "shaw_value")
        return {name: 0.02 * torch.randn(shape, generator=draw) for name in names}

    def table(self, w: Weights, name: str, like: Tensor) -> Tensor:
        """[behind + ahead + 1, dim] in the dtype of `like`: the vectors, farthest behind first."""
        if not self.fixed:
            return w[name].to(like.dtype)
        # NEZHA's paper has the sinusoid of the distance; its code, which its weights need, that of the row number
        rows = torch.tensor(range(self.behind + self.ahead + 1), device=like.device)
        angle = angles(rows[:, None], Sinusoidal(self.dim).spectrum())
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).to(like.dtype)

    def row(self, q_at: Tokens, k_at: Tokens) -> Tensor:
        """Int[B, Q, K]: the row of both tables that each pair of tokens takes."""
        ahead = -whole(distance(q_at, k_at), "Shaw")
        return ahead.clamp(-self.behind, self.ahead) + self.behind

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K]: q . (k + key vector) / sqrt(dim). Raises ConfigError for positions that are not whole."""
        of_row = q @ self.table(w, "shaw_key", q).T
        return (q @ k.mT + pick(of_row, self.row(q_at, k_at))) * self.dim**-0.5

    def values(self, w: Weights, a: Tensor, v: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, dim]: the mean of v + value vector, weighted by a."""
        table, row = self.table(w, "shaw_value", a), self.row(q_at, k_at)[:, None].expand_as(a)
        # the weights of the keys that share a row are summed first
        return a @ v + a.new_zeros(*a.shape[:3], len(table)).scatter_add(-1, row, a) @ table
