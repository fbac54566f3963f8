"""Relative position representations. Shaw et al. 2018, arXiv:1803.02155."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance


@dataclass(frozen=True)
class Shaw:
    """Adds to each key, and to each value, a learned vector for how far ahead of the query it stands.

    Distances are clipped to `behind` and `ahead`. Both tables are shared by the heads; the scale is dim ** -0.5.
    """

    dim: int
    behind: int = 16
    ahead: int = 16

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "behind", at_least=0, whole=True)
        require_number(self, "ahead", at_least=0, whole=True)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Two tables, Float32[behind + ahead + 1, dim], drawn from N(0, 0.02)."""
        shape = (self.behind + self.ahead + 1, self.dim)
        return {name: 0.02 * torch.randn(shape, generator=draw) for name in ("shaw_key", "shaw_value")}

    def row(self, q_at: Tokens, k_at: Tokens) -> Tensor:
        """Int[B, Q, K]: the row of both tables that each pair of tokens takes."""
        return (-distance(q_at, k_at)).clamp(-self.behind, self.ahead) + self.behind

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """q . (k + key vector) / sqrt(dim)."""
        of_row = q @ w["shaw_key"].T
        row = self.row(q_at, k_at)[:, None].expand(*of_row.shape[:3], -1)
        return (q @ k.mT + of_row.gather(-1, row)) * self.dim**-0.5

    def values(self, w: Weights, a: Tensor, v: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """The weighted mean of v + value vector."""
        row = self.row(q_at, k_at)[:, None].expand_as(a)
        of_row = a.new_zeros(*a.shape[:3], len(w["shaw_value"])).scatter_add(-1, row, a)
        return a @ v + of_row @ w["shaw_value"]
