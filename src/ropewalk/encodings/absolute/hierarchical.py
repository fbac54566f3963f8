"""A trained table of n rows made to serve n * n positions. Su 2020, https://kexue.fm/archives/7947."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ropewalk.encodings.absolute.learned import INJECTS, Learned
from ropewalk.errors import require, require_choice, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, rows


@dataclass(frozen=True)
class Hierarchical:
    """Adds row j of a trained table, moved by how row i differs from row 0, at position `i * length + j`.

    The move is scaled by alpha / (1 - alpha): for alpha below one half the fine digit j leads, and at one half (i, j)
    and (j, i) would be the same vector. The first `length` positions keep their trained rows bit for bit. The table is
    that of `Learned(dim, length, first_row)` under the same name; tuning it moves every position that is made of it.
    """

    dim: int
    length: int
    alpha: float = 0.4
    first_row: int = 0
    inject: str = "input"

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "length", at_least=1, whole=True)
        inside = type(self.alpha) is float and 0 < self.alpha < 1 and self.alpha != 0.5
        require(inside, "Hierarchical.alpha", "a number above 0 and below 1, other than 0.5", self.alpha)
        require_number(self, "first_row", at_least=0, whole=True)
        require_choice(self, "inject", INJECTS)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The table of `Learned`, Float32[first_row + length, dim]; a trained one takes its place."""
        return Learned(self.dim, self.length, self.first_row).init(draw)

    def embed(self, w: Weights, at: Tokens) -> Tensor:
        """[B, T, dim] in the table's dtype. Raises ConfigError for a position outside 0 to length ** 2 - 1."""
        where, table = rows(at, self.length**2, "Hierarchical"), w["table"][self.first_row :]
        coarse, fine = embedding(where // self.length, table), embedding(where % self.length, table)
        # algebraically alpha u_i + (1 - alpha) u_j with u = (p - alpha p_0) / (1 - alpha), and exact where i is 0
        return fine + self.alpha / (1 - self.alpha) * (coarse - table[0])
