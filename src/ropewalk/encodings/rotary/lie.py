"""Rotations with learned dense generators (LieRE). Ostmeier et al. 2024, arXiv:2406.10322."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.encodings.rotary.turning import on_axes
from ropewalk.errors import require, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


def skew(entries: Tensor, size: int) -> Tensor:
    """[..., n, n]: the skew-symmetric matrices with these entries [..., n (n - 1) / 2] above the diagonal."""
    upper = entries.new_zeros(*entries.shape[:-1], size, size)
    row, column = torch.triu_indices(size, size, offset=1, device=entries.device)
    upper[..., row, column] = entries
    return upper - upper.mT


class Matrices(NamedTuple):
    """One orthogonal matrix per token and block of channels; queries and keys are mapped alike."""

    matrix: Tensor  # [B, H, T, N, n, n], H 1 where heads share

    def query(self, x: Tensor) -> Tensor:
        """x [B, H, T, N n], each block multiplied by its matrix."""
        blocks, size = self.matrix.shape[-3:-1]
        wide = torch.promote_types(x.dtype, self.matrix.dtype)
        parted = x.to(wide).unflatten(-1, (blocks, size, 1))
        return (self.matrix.to(wide) @ parted).flatten(-3).to(x.dtype)

    key = query


@dataclass(frozen=True)
class LieRotary:
    """Turns queries and keys by exp(sum over axes of coordinate times generator), an orthogonal matrix per token.

    Generators are learned, skew-symmetric and do not commute, so a logit is relative only approximately (with one axis
    exactly). The matrices take dim ** 2 numbers per token, or dim * block where channels are turned in blocks.
    """

    dim: int
    axes: int = 2
    heads: int = 1  # 1: all heads share the generators
    block: int | None = None  # channels that turn together, None: all

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=2, whole=True)
        require_number(self, "axes", at_least=1, whole=True)
        require_number(self, "heads", at_least=1, whole=True)
        if self.block is not None:
            require_number(self, "block", at_least=2, whole=True)
            require(self.dim % self.block == 0, "LieRotary.block", f"a divisor of dim = {self.dim}", self.block)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """What stands above the diagonals, Float32[axes, heads, dim / n, n (n - 1) / 2], from U(0, 2 pi)."""
        size = self.block or self.dim
        shape = (self.axes, self.heads, self.dim // size, math.comb(size, 2))
        return {"lie_generators": math.tau * torch.rand(shape, generator=draw)}

    def generators(self, w: Weights) -> Tensor:
        """Float64[axes, heads, dim / n, n, n]."""
        return skew(w["lie_generators"].double(), self.block or self.dim)

    def rotation(self, w: Weights, at: Tokens) -> Matrices:
        """The exponentials, in float64, then in the dtype of the generators, float32 at least."""
        power = torch.einsum("bta,ahnij->bhtnij", on_axes(at, self.axes), self.generators(w)).contiguous()
        return Matrices(power.matrix_exp().to(torch.promote_types(w["lie_generators"].dtype, torch.float32)))
