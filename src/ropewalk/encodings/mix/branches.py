"""Distance rules: where two tokens stand decides which of a few rotations their logit is computed with.

Letters: B batch, Q queries, K keys, H heads, T tokens, D head channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


class Branches:
    """Gives `logits` and `effective` to an encoding that says, for each branch, where queries and keys then stand.

    A branch's places hang on each token alone, so that keys may be cached as every branch turns them. Of the branches
    that take a pair the last one serves it, the first one where none does. They are rules for causal attention: a key
    ahead of the query is treated like a near one.
    """

    rotary: Rotary

    def queries(self, at: Tokens) -> list[Tensor]:
        """Int or Float64[B, Q] of each branch: where it lets the queries stand."""
        raise NotImplementedError

    def keys(self, at: Tokens) -> list[Tensor]:
        """Int or Float64[B, K] of each branch: where it lets the keys stand; the same tensor where two agree."""
        raise NotImplementedError

    def takes(self, q_at: Tokens, k_at: Tokens) -> list[Tensor]:
        """Bool[B, Q, K] of each branch: the pairs that it is for."""
        raise NotImplementedError

    def effective(self, q_at: Tokens, k_at: Tokens) -> Tensor:
        """Int or Float64[B, Q, K]: the distance that each logit is computed for."""
        q, k = self.queries(q_at), self.keys(k_at)
        return chosen(self.takes(q_at, k_at), lambda n: (q[n][:, :, None] - k[n][:, None, :])[:, None])[:, 0]

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K]: dot products of rotated queries and keys, one matrix of them per branch, times D ** -0.5."""
        queries, keys = self.queries(q_at), self.keys(k_at)

        def product(n: int) -> Tensor:
            turned = self.rotary.rotation(w, standing(queries[n])).query(q)
            return turned @ self.rotary.rotation(w, standing(keys[n])).key(k).mT

        return chosen(self.takes(q_at, k_at), product) * q.shape[-1] ** -0.5


def chosen(takes: list[Tensor], found: Callable[[int], Tensor]) -> Tensor:
    """[B, H, Q, K]: for each pair what its branch finds."""
    out = found(0)
    for n in range(1, len(takes)):
        out = torch.where(takes[n][:, None], found(n), out)
    return out


def standing(where: Tensor) -> Tokens:
    """Tokens at these positions [B, T]; of anything else a rotation takes no notice."""
    nothing = torch.zeros_like(where, dtype=torch.int64)
    return Tokens(where[..., None], nothing, nothing)


def require_rotary(owner: object) -> None:
    """Raise ConfigError unless `owner.rotary` is a Rotary."""
    rotary = getattr(owner, "rotary", None)
    require(isinstance(rotary, Rotary), f"{type(owner).__name__}.rotary", "a Rotary", rotary)
