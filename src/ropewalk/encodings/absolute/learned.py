"""A learned vector per position. Gehring et al. 2017, arXiv:1705.03122; Devlin et al. 2018, arXiv:1810.04805 (BERT)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.errors import require_choice, require_number
from ropewalk.sites import Weights

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ropewalk.tokens import Tokens

INJECTS = ("input", "pre_head")


@dataclass(frozen=True)
class Learned:
    """Adds row `position + first_row` of a trained table to the token embeddings; there is nothing beyond the table.

    Some models keep the first rows for themselves: `first_row` is 2 in OPT and in RoBERTa.
    """

    dim: int
    length: int
    first_row: int = 0
    inject: str = "input"  # or "pre_head": only before the output head, as DeBERTa does

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=1, whole=True)
        require_number(self, "length", at_least=1, whole=True)
        require_number(self, "first_row", at_least=0, whole=True)
        require_choice(self, "inject", INJECTS)

    def init(self, draw: "Generator") -> dict[str, "Tensor"]:
        """The table, Float32[first_row + length, dim], drawn from N(0, 0.02)."""
        import torch

        return {"table": 0.02 * torch.randn(self.first_row + self.length, self.dim, generator=draw)}

    def embed(self, w: Weights, at: "Tokens") -> "Tensor":
        """[B, T, dim]. Raises ConfigError for a position outside the table."""
        from torch.nn.functional import embedding

        from ropewalk.tokens import rows

        return embedding(rows(at, self.length, "Learned") + self.first_row, w["table"])
