"""Rotation with exponential decay (xPos). Sun et al. 2022, arXiv:2212.10554.

Paper and code: released code measures growth from the middle of the text, the paper from 0. Logits are equal; we
measure from the latest query, to stay in range.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require, require_choice, require_even, require_number
from ropewalk.masks import bidirectional
from ropewalk.rotation import PAIRINGS, Rotation
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, line

BEHIND, AHEAD = 60.0, 20.0  # exponents up to which a query may grow, and a key: a product of both fits into float32


@dataclass(frozen=True)
class XPos:
    """Turns pairs as Rotary does and shrinks each pair's part of a logit by zeta ** (distance / scale_base).

    zeta rises from gamma / (1 + gamma) for the fastest pair towards 1 for the slowest. Keys ahead of the query grow
    instead: for causal attention only. Queries are multiplied and keys divided, which `nearby` keeps in range.
    """

    dim: int
    base: float = 10000.0
    scale_base: float = 512.0
    gamma: float = 0.4
    pairing: str = "half"

    def __post_init__(self) -> None:
        require_even(self, "dim")
        require_number(self, "base", above=1)
        require_number(self, "scale_base", above=0)
        require_number(self, "gamma", above=0)
        require_choice(self, "pairing", PAIRINGS)

    def zeta(self) -> tuple[float, ...]:
        """What each pair's part of a logit is multiplied with over `scale_base` tokens of distance."""
        return tuple((2 * i / self.dim + self.gamma) / (1 + self.gamma) for i in range(self.dim // 2))

    def rotation(self, w: Weights, at: Tokens) -> Rotation:
        """Cosines, sines and the exponents of growth, [B, T, dim / 2]; using it raises ConfigError on overflow."""
        rates = [math.log(z) / self.scale_base for z in self.zeta()]
        where = line(at, "XPos").double()[..., None]
        turned = Rotary(self.dim, self.base, pairing=self.pairing).rotation({}, at)
        return turned._replace(growth=where * torch.tensor(rates, dtype=torch.float64, device=where.device))

    def nearby(self, q_at: Tokens, k_at: Tokens) -> tuple[Tokens, Tokens]:
        """Both moved together, per row and document, so that each document's latest query stands at 0.

        No logit of two tokens of one document changes, but that a key far ahead of every query is brought closer: it
        is masked, and stays finite. Raises ConfigError where the queries of one document lie too far apart.
        """
        efold = self.scale_base / -math.log(self.zeta()[0])
        reach = BEHIND * efold
        q, k = (line(at, "XPos").double() - self.latest(at, q_at) for at in (q_at, k_at))
        if not torch.compiler.is_compiling():
            apart = -float(q.min())
            require(apart <= reach, "queries of a document under XPos", f"at most {reach:.0f} positions apart", apart)
        return q_at._replace(position=q[..., None]), k_at._replace(position=k.clamp(max=AHEAD * efold)[..., None])

    def latest(self, at: Tokens, q_at: Tokens) -> Tensor:
        """Float64[B, T]: the last position of a query in each token's document; the token's own where there is none."""
        where = line(q_at, "XPos").double()[:, None, :]
        last = where.masked_fill(~bidirectional(at, q_at), -math.inf).amax(-1)
        return torch.where(last.isinf(), line(at, "XPos").double(), last)
