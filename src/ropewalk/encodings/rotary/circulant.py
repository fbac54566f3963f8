"""Circulant generators, which commute (circulant STRING). Schenck et al. 2025, arXiv:2502.02562."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.rotary.string import InBasis, in_basis
from ropewalk.errors import require, require_even, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class CirculantString:
    """Turns queries and keys by exp(sum over axes of coordinate times (C - C transposed)), C circulant and learned.

    All such generators turn the same planes, those of the discrete Fourier transform, so a logit is exactly relative.
    The mean of the channels and their alternating sum do not turn. It starts, which is a choice made here, at rates
    dealt to the axes in turn from one table that falls from 1 to 1 / base.
    """

    dim: int
    axes: int = 2
    base: float = 10000.0

    def __post_init__(self) -> None:
        require_even(self, "dim")
        require_number(self, "axes", at_least=1, whole=True)
        require(self.dim // 2 > self.axes, "CirculantString.axes", f"below {self.dim // 2}, half of dim", self.axes)
        require_number(self, "base", above=1)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The first column of each C, Float32[axes, dim]."""
        turning = self.dim // 2 - 1
        rates = torch.zeros(self.axes, self.dim // 2, dtype=torch.float64)
        for i in range(turning):
            rates[i % self.axes, i + 1] = self.base ** (-i / max(turning - 1, 1))
        return {"circulant_columns": (rates @ self.waves()[1].mT / self.dim).float()}

    def waves(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, Float64[dim, dim / 2]: k full waves over the channels."""
        channel = torch.ones(self.dim, dtype=torch.float64).cumsum(0) - 1
        # whole turns are taken off while the numbers are whole
        phase = math.tau / self.dim * (channel[:, None] * channel[: self.dim // 2] % self.dim)
        return phase.cos(), phase.sin()

    def basis(self) -> Tensor:
        """Float64[dim, dim], orthogonal: constant and alternating, then the cosine and the sine of every other wave."""
        cos, sin = self.waves()
        sin[0::2, 0], sin[1::2, 0] = 1, -1
        vectors = torch.stack((cos, sin), dim=-1).flatten(-2)
        return vectors / vectors.norm(dim=0)

    def rates(self, w: Weights) -> Tensor:
        """Float64[axes, dim / 2]: how fast each plane turns; the first does not."""
        columns = w["circulant_columns"].double()
        return 2 * columns @ self.waves()[1].to(columns.device)

    def rotation(self, w: Weights, at: Tokens) -> InBasis:
        """The basis [dim, dim], and cosines and sines [B, T, dim / 2] in it."""
        return in_basis(at, self.rates(w), self.basis().to(at.position.device), w["circulant_columns"])
