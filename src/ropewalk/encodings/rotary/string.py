"""Commuting generators in a learned or a fixed basis (STRING). Schenck et al. 2025, arXiv:2502.02562."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.encodings.rotary.lie import skew
from ropewalk.encodings.rotary.turning import on_axes, turned_by
from ropewalk.errors import require, require_even, require_number
from ropewalk.rotation import Rotation
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


class InBasis(NamedTuple):
    """Pairs turn in another orthonormal basis; the way back is left out, since a logit does not see it."""

    basis: Tensor  # [D, D], one vector per column
    rotation: Rotation

    def query(self, x: Tensor) -> Tensor:
        """The coordinates of x [B, H, T, D] in the basis, rotated."""
        wide = torch.promote_types(x.dtype, self.basis.dtype)
        return self.rotation.query(x.to(wide) @ self.basis.to(wide)).to(x.dtype)

    key = query


def in_basis(at: Tokens, rates: Tensor, basis: Tensor, learned: Tensor) -> InBasis:
    """The map of tokens whose pairs turn by coordinate times rate (Float64[axes, P]), in the dtype that is learned."""
    turned = turned_by(on_axes(at, len(rates)) @ rates, learned, "interleaved")
    return InBasis(basis.to(turned.cos.dtype), turned)


@dataclass(frozen=True)
class CayleyString:
    """Turns pairs of channels in a learned orthonormal basis, by rates learned along every axis: exactly relative.

    The basis is (I - S) (I + S) ** -1 for a learned skew-symmetric S. It starts as axial rotary, S being 0.
    """

    dim: int
    axes: int = 2
    base: float = 10000.0

    def __post_init__(self) -> None:
        require_even(self, "dim")
        require_number(self, "axes", at_least=1, whole=True)
        require(self.dim // 2 % self.axes == 0, "CayleyString.axes", f"a divisor of {self.dim // 2} pairs", self.axes)
        require_number(self, "base", above=1)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """S above its diagonal, Float32[dim (dim - 1) / 2], and the rates, Float32[axes, dim / 2]."""
        each = self.dim // 2 // self.axes
        own = torch.tensor([[self.base ** (-i / each) for i in range(each)]])
        return {
            "cayley_skew": torch.zeros(math.comb(self.dim, 2)),
            "cayley_rates": torch.block_diag(*[own] * self.axes),
        }

    def basis(self, w: Weights) -> Tensor:
        """Float64[dim, dim], orthogonal."""
        s, one = skew(w["cayley_skew"].double(), self.dim), torch.eye(self.dim, dtype=torch.float64)
        return torch.linalg.solve(one.to(s.device) + s, one.to(s.device) - s)

    def rotation(self, w: Weights, at: Tokens) -> InBasis:
        """The basis [dim, dim], and cosines and sines [B, T, dim / 2] in it."""
        return in_basis(at, w["cayley_rates"].double(), self.basis(w), w["cayley_rates"])
