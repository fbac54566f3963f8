"""Positions as the path of a learned differential equation. Liu et al. 2020, arXiv:2003.09229 (FLOATER)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.absolute.recurrent import unrolled
from ropewalk.errors import require_choice, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class Floater:
    """Adds p(step * position), where p starts at a learned vector and follows dp/dt = tanh(W p + b + c t).

    With inject="qkv" three such paths of one equation are the biases of the query, key and value projections, side by
    side in that order; the layers of a model are then a list of encodings. The weights start with p at zero throughout,
    so that a trained model is left as it is. The authors' code has step 0.01.
    """

    dim: int
    step: float = 0.1
    solver: str = "rk4"  # or "euler"
    substeps: int = 5  # of the solver, from each token to the next
    inject: str = "input"  # or "qkv"

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "step", above=0)
        require_choice(self, "solver", ("euler", "rk4"))
        require_number(self, "substeps", at_least=1, whole=True)
        require_choice(self, "inject", ("input", "qkv"))

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """W from Xavier's uniform; b, c and the start zero. The start is Float32[dim], or [3, dim] for "qkv"."""
        matrix = torch.nn.init.xavier_uniform_(torch.empty(self.dim, self.dim), generator=draw)
        start = torch.zeros((3, self.dim) if self.inject == "qkv" else (self.dim,))
        zeros = {name: torch.zeros(self.dim) for name in ("floater_bias", "floater_time")}
        return {"floater_start": start, "floater_matrix": matrix, **zeros}

    def embed(self, w: Weights, at: Tokens) -> Tensor:
        """[B, T, dim], or [B, T, 3 dim] for "qkv", in the weights' dtype.

        Raises ConfigError for positions that are negative or not whole.
        """
        matrix, bias, time = w["floater_matrix"], w["floater_bias"], w["floater_time"]
        h = self.step / self.substeps

        def slope(t: float, p: Tensor) -> Tensor:
            return (p @ matrix.T + bias + time * t).tanh()

        def increment(t: float, p: Tensor) -> Tensor:
            first = slope(t, p)
            if self.solver == "euler":
                return first
            second = slope(t + h / 2, p + h / 2 * first)
            third = slope(t + h / 2, p + h / 2 * second)
            return (first + 2 * second + 2 * third + slope(t + h, p + h * third)) / 6

        def token(p: Tensor, n: int) -> Tensor:
            for i in range(n * self.substeps, (n + 1) * self.substeps):
                p = p + h * increment(i * h, p)
            return p

        return unrolled(w["floater_start"], token, at, "Floater").flatten(2)
