"""A learned bias per offset inside a window of an image. Liu et al. 2021, arXiv:2103.14030 (Swin)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import require, require_number
from ropewalk.masks import bidirectional
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, whole


def offset_row(owner: Any, q_at: Tokens, k_at: Tokens) -> Tensor:
    """Int[B, Q, K]: the row that each pair of tokens takes in a table of all offsets, query minus key, row by row.

    Raises ConfigError unless positions are rows and columns in whole numbers, and where two tokens of one document do
    not fit into one window; pairs of different documents, which no mask lets through, take row 0 if they do not.
    """
    name = type(owner).__name__
    for at in (q_at, k_at):
        axes = at.position.shape[-1]
        require(axes == 2, f"the position that {name} reads", "a row and a column", f"{axes} axes")
    offset = whole(q_at.position[:, :, None] - k_at.position[:, None], name)
    down, right = offset.unbind(-1)
    outside = (down.abs() >= owner.height) | (right.abs() >= owner.width)
    wrong = outside & bidirectional(q_at, k_at)
    if not torch.compiler.is_compiling():
        rule = f"inside a window of {owner.height} by {owner.width} tokens"
        found = offset[wrong][:1].tolist()
        require(not found, f"the offset between two tokens that {name} reads", rule, found)
    columns = 2 * owner.width - 1
    row = (down + owner.height - 1) * columns + right + owner.width - 1
    # a compiled lookup checks its bounds itself: this row is not there
    return row.masked_fill(outside, 0).masked_fill(wrong, columns * (2 * owner.height - 1))


@dataclass(frozen=True)
class Swin:
    """Adds to a logit a learned number for how many rows and columns the query stands below and right of the key.

    Reads two coordinates, row and column, of tokens in windows of `height` by `width`; a document is one window.
    """

    heads: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for field in ("heads", "height", "width"):
            require_number(self, field, at_least=1, whole=True)

    @property
    def axes(self) -> int:
        """How many coordinates of a token are read."""
        return 2

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The table, Float32[(2 height - 1) (2 width - 1), heads], drawn from N(0, 0.02)."""
        count = (2 * self.height - 1) * (2 * self.width - 1)
        return {"swin_bias": 0.02 * torch.randn(count, self.heads, generator=draw)}

    def bias(self, w: Weights, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, heads, Q, K] in the table's dtype. Raises ConfigError for an offset that no window holds."""
        return w["swin_bias"][offset_row(self, q_at, k_at)].permute(0, 3, 1, 2)
