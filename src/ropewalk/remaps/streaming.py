"""Endless text through a cache of fixed size. Xiao et al. 2024, arXiv:2309.17453 (StreamingLLM)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require, require_number
from ropewalk.tokens import PADDING, Tokens, line


@dataclass(frozen=True)
class Streaming:
    """Keeps the first `sinks` tokens and the last `recent`, and numbers them as if nothing had stood between.

    Positions change as the text goes on, so the cache holds raw keys and the tokens as they stand in the text; what is
    evicted is gone. Rows hold one document each, and may be padded.
    """

    sinks: int = 4
    recent: int = 1020

    def __post_init__(self) -> None:
        require_number(self, "sinks", at_least=0, whole=True)
        require_number(self, "recent", at_least=1, whole=True)

    def kept(self, at: Tokens) -> Tensor:
        """Int[B, N]: the columns that stay, N at most sinks + recent; a row with fewer tokens has padding before them.

        Raises ConfigError for packed documents, and for rows of different lengths that are not padded.
        """
        where = line(at, "Streaming")
        padding = at.document == PADDING
        single = bool((padding | (at.document == at.document.amax(dim=1, keepdim=True))).all())
        require(single, "the row that Streaming reads", "a single document", at.document.unique().tolist())
        evicted = (where >= self.sinks) & (where < self.sinks + self.skipped(at))
        # what has to go comes first, then padding, then what stays
        rank = torch.where(padding, 1, torch.where(evicted, 0, 2))
        size = int((rank == 2).sum(dim=1).max())
        enough = bool(((rank > 0).sum(dim=1) >= size).all())
        require(enough, "the rows that Streaming reads", "equally long, or padded", rank.shape)
        return rank.argsort(dim=1, stable=True)[:, rank.shape[1] - size :]

    def skipped(self, at: Tokens) -> Tensor:
        """Int[B, 1]: how many tokens of the text stand between the sinks and the last ones."""
        return (line(at, "Streaming").amax(dim=1, keepdim=True) + 1 - self.sinks - self.recent).clamp(min=0)

    def __call__(self, at: Tokens) -> Tokens:
        """The tokens kept, their positions the slots of the cache: the newest is the last slot."""
        kept = self.kept(at)
        where = at.position[..., 0].gather(1, kept)
        slot = torch.where(where < self.sinks, where, where - self.skipped(at))
        return Tokens(slot[..., None], at.order.gather(1, kept), at.document.gather(1, kept))
