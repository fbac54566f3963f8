"""Position vectors that follow from one another: the recursive kind in Su 2021, https://kexue.fm/archives/8130."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, line


def unrolled(first: Tensor, step: Callable[[Tensor, int], Tensor], at: Tokens, owner: str) -> Tensor:
    """[B, T, ...]: the state at each token's position, where step(state, n) leads from position n to n + 1.

    Goes step by step up to the largest position. Raises ConfigError for positions that are negative or not whole.
    """
    where, field = line(at, owner), f"the position that {owner} reads"
    require(not where.is_floating_point(), field, "a whole number", where.dtype)
    low, high = (int(x) for x in where.aminmax()) if where.numel() else (0, 0)
    require(low >= 0, field, "at least 0", low)
    states = [first]
    for n in range(high):
        states.append(step(states[-1], n))
    return torch.stack(states)[where]


@dataclass(frozen=True)
class Recurrent:
    """Adds vectors of which each is made from the one before: tanh of a learned matrix times it, plus a learned bias.

    Any length can be reached, in as many steps as the largest position.
    """

    dim: int

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The vector of position 0 from N(0, 0.02), a matrix of 0.9 times a random rotation, and a bias of 0."""
        matrix = torch.nn.init.orthogonal_(torch.empty(self.dim, self.dim), gain=0.9, generator=draw)
        start = 0.02 * torch.randn(self.dim, generator=draw)
        return {"recurrent_start": start, "recurrent_matrix": matrix, "recurrent_bias": torch.zeros(self.dim)}

    def embed(self, w: Weights, at: Tokens) -> Tensor:
        """[B, T, dim] in the weights' dtype. Raises ConfigError for positions that are negative or not whole."""
        matrix, bias = w["recurrent_matrix"], w["recurrent_bias"]
        return unrolled(w["recurrent_start"], lambda p, n: (matrix @ p + bias).tanh(), at, "Recurrent")
