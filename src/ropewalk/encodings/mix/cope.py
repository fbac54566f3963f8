"""Positions that count what matters to the query. Golovneva et al. 2024, arXiv:2405.18719 (contextual, CoPE)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require_number
from ropewalk.masks import causal
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class Cope:
    """Adds q . e[p] to a logit: p counts the keys from this one up to the query, each by the sigmoid of its own logit.

    Between two whole counts the two products are mixed; a count stays below `positions`. The table is shared by the
    heads. Counted are the keys that causality lets the query see, whatever narrower mask attention is given.
    """

    dim: int
    positions: int = 64

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "positions", at_least=1, whole=True)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The table, Float32[positions, dim]: zeros, which is no position at all."""
        return {"cope": torch.zeros(self.positions, self.dim)}

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """q . k / sqrt(dim) + q . e[p]."""
        s = q @ k.mT * self.dim**-0.5
        return s + self.of_count(w, q, self.counts(s, q_at, k_at))

    def counts(self, s: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K]: the gates of each key and of those after it, summed in the order of the text."""
        gates = s.sigmoid() * causal(q_at, k_at)[:, None]
        order = k_at.order.argsort(dim=-1, descending=True)[:, None, None].expand_as(gates)
        sums = gates.gather(-1, order).cumsum(-1)
        return torch.zeros_like(sums).scatter(-1, order, sums).clamp(max=self.positions - 1)

    def of_count(self, w: Weights, q: Tensor, count: Tensor) -> Tensor:
        """[B, H, Q, K]: the query's product with the table's row for each count, interpolated."""
        of_row, below = q @ w["cope"].T, count.detach().floor().long()
        above = (below + 1).clamp(max=self.positions - 1)
        part = count - below
        return of_row.gather(-1, below) * (1 - part) + of_row.gather(-1, above) * part
